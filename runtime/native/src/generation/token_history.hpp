// The tokens of a session, and where the newest of them stood together before: prompt lookup (Saxena 2023, "Prompt
// Lookup Decoding"). Receipts, attributes as JSON and quotations repeat long runs of the prompt or of the answer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e {

// An earlier place that ends with the same tokens as the session.
struct Repeat {
    size_t end = 0;    // where the earlier place ends: the token here followed it
    size_t length = 0; // tokens that agree, MOST_AGREEING at most; 0: there is no such place
};

constexpr size_t MOST_AGREEING = 32; // more say nothing more

class TokenHistory {
  public:
    // Reserves memory: appending up to this length needs no memory. Throws std::bad_alloc and changes nothing.
    void reserve(size_t length);
    // A negative token is none: the place of an embedding that the caller gave.
    void append(int32_t token);
    void truncate(size_t length);

    const std::vector<int32_t> &tokens() const { return tokens_; }
    size_t length() const { return tokens_.size(); }

    // The place that the newest tokens have followed for as long as they agreed, and else the latest one.
    const Repeat &repeat() const { return repeat_; }
    // The token `ahead` places behind the repeat, if the session goes on as it went on there; negative: not known. A
    // place that reaches to the session's end goes on with itself.
    int32_t follower(size_t ahead) const;

  private:
    static constexpr std::array<size_t, 2> RUNS = {3, 2}; // tokens that are looked up together, the longest first

    bool is_run(size_t end, size_t run) const;
    bool same_run(size_t one, size_t other, size_t run) const;
    size_t hash(size_t end, size_t run) const;
    void note_runs(std::vector<uint32_t> &ends, size_t end) const;
    Repeat find() const;
    size_t count_agreeing(size_t end) const;

    std::vector<int32_t> tokens_;
    std::vector<uint32_t> ends_; // by a run's hash: where the latest one that has a follower ends; 0: nowhere
    Repeat repeat_;
};

} // namespace v2e
