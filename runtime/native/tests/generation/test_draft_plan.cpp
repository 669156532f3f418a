// Drafts pay or do not happen, on machines whose rows cost more or less. Time is simulated.
#include "generation/draft_plan.hpp"
#include "tests/check.hpp"

#include <cstdint>

using namespace v2e;

namespace {

// Whether the token behind a repeat is the right one; a run of right ones lasts `run` tokens on average.
class Text {
  public:
    Text(double repeats, double run) : repeats_(repeats), right_(1.0 - 1.0 / run) {}

    // The tokens that agree before the next one: 0 outside of a repeat.
    size_t agreeing() const { return agreeing_; }
    bool next_is_right() {
        const bool right = agreeing_ > 0 && uniform() < right_;
        if (right)
            ++agreeing_;
        else
            agreeing_ = uniform() < repeats_ ? 2 : 0;
        return right;
    }

  private:
    double uniform() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(state_ >> 11) * 0x1p-53;
    }

    double repeats_, right_;
    size_t agreeing_ = 0;
    uint64_t state_ = 1;
};

// Time without drafts divided by time with them.
template <class Cost>
double speed_up(DraftPlan &plan, Text text, size_t tokens, Cost &&step_ms) {
    double elapsed = 0.0, alone = 0.0;
    size_t left = 0; // tokens left of the last draft
    for (size_t token = 0; token < tokens; ++token) {
        const size_t agreeing = text.agreeing();
        const bool right = text.next_is_right();
        if (agreeing > 0)
            plan.note_token(agreeing, right);
        alone += step_ms(size_t{0}, token);
        if (left > 0 && right) {
            --left;
            continue;
        }
        left = plan.length(text.agreeing(), DraftPlan::MOST_DRAFTED);
        const double time = step_ms(left, token);
        plan.note_step(left, time);
        elapsed += time;
    }
    return alone / elapsed;
}

auto rows_that_cost(double share) {
    return [share](size_t drafted, size_t) { return 100.0 * (1.0 + share * static_cast<double>(drafted)); };
}

} // namespace

TEST_CASE("a draft plan copies several times faster where memory is the limit") {
    DraftPlan plan;
    CHECK(speed_up(plan, Text(0.5, 30.0), 500, rows_that_cost(0.12)) > 2.0);
}

TEST_CASE("a draft plan gains from short repeats as well") {
    DraftPlan plan;
    CHECK(speed_up(plan, Text(0.3, 4.0), 500, rows_that_cost(0.12)) > 1.1);
}

TEST_CASE("a draft plan never costs more than three percent") {
    for (const double cost : {0.02, 0.12, 0.25, 0.5, 1.0, 1.4})
        for (const double repeats : {0.0, 0.1, 0.5, 0.9})
            for (const double run : {1.0, 1.3, 2.0, 4.0, 30.0})
                for (const size_t tokens : {100u, 1000u}) {
                    DraftPlan plan;
                    const double gain = speed_up(plan, Text(repeats, run), tokens, rows_that_cost(cost));
                    if (gain < 0.97)
                        std::printf("cost %g, repeats %g, run %g, %zu tokens: %g\n", cost, repeats, run, tokens, gain);
                    CHECK(gain >= 0.97);
                }
}

TEST_CASE("a draft plan knows that a kernel has steps") {
    // Six rows cost as much as one, the seventh as much as another step.
    const auto tiles = [](size_t drafted, size_t) {
        return drafted < 6 ? 100.0 : 250.0 + 10.0 * static_cast<double>(drafted);
    };
    DraftPlan plan;
    CHECK(speed_up(plan, Text(0.5, 6.0), 500, tiles) > 1.8);
}

TEST_CASE("a draft plan recovers from a busy machine") {
    DraftPlan plan;
    const auto busy = [](size_t drafted, size_t) { return 100.0 * (1.0 + 1.5 * static_cast<double>(drafted)); };
    speed_up(plan, Text(0.5, 30.0), 200, busy);
    CHECK(plan.length(20, DraftPlan::MOST_DRAFTED) == 0);
    CHECK(speed_up(plan, Text(0.5, 30.0), 2000, rows_that_cost(0.12)) > 1.5);
}

TEST_CASE("a draft plan drafts nothing without a repeat or before a step was measured") {
    DraftPlan plan;
    CHECK(plan.length(20, DraftPlan::MOST_DRAFTED) == 0);
    plan.note_step(0, 100.0);
    CHECK(plan.length(0, DraftPlan::MOST_DRAFTED) == 0);
    CHECK(plan.length(20, DraftPlan::MOST_DRAFTED) > 3);
    CHECK(plan.length(20, 2) <= 2);
    CHECK(plan.length(20, 0) == 0);
}
