// How many tokens to draft for a step of the decoder, which checks all of them at once.
#pragma once

#include <array>
#include <cstddef>

namespace v2e {

// Takes the length that promises the least time a token. The promise comes from what was seen: how often a drafted
// token was right, by the number of tokens that agreed before it, and how much longer a step takes by the length of its
// draft. Wrong tokens are learned from for nothing: what would have been drafted is compared with what was chosen.
class DraftPlan {
  public:
    static constexpr size_t MOST_DRAFTED = 15;

    // 0 to `most`, at the end of a repeat of `agreeing` tokens.
    size_t length(size_t agreeing, size_t most);
    // The token behind a repeat was the right one, drafted or not.
    void note_token(size_t agreeing, bool right);
    // A step with so many drafted tokens took this long.
    void note_step(size_t drafted, double elapsed_ms);

  private:
    // The lengths among which to choose: with the token before them they fill 2, 3, 4, 6, 8, 12 and 16 rows.
    static constexpr std::array<size_t, 7> LENGTHS = {1, 2, 3, 5, 7, 11, MOST_DRAFTED};
    static constexpr size_t LEVELS = 6; // levels of agreement

    static size_t level(size_t agreeing);
    double row_cost(size_t index) const;

    // Share of right tokens by level, at first a careful guess.
    std::array<double, LEVELS> hit_rates_ = {0.2, 0.3, 0.45, 0.6, 0.75, 0.85};
    std::array<double, LENGTHS.size()>
        row_costs_{};      // cost of one drafted token, in steps, by length; 0: not measured yet
    double step_ms_ = 0.0; // without a draft; 0: not measured yet
    size_t refused_ = 0;   // promising drafts since the last one that cost too much
};

} // namespace v2e
