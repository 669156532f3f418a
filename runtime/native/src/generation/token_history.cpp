#include "generation/token_history.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr size_t SMALLEST_TABLE = 1024;
constexpr size_t SLOTS_A_TOKEN = 4; // at least: two runs end at every token
constexpr size_t PROBES = 4;        // neighbouring slots that a run may have

} // namespace

void TokenHistory::reserve(size_t length) {
    size_t slots = std::max(ends_.size(), SMALLEST_TABLE);
    while (slots < SLOTS_A_TOKEN * length)
        slots *= 2;
    if (slots > ends_.size()) {
        std::vector<uint32_t> ends(slots);
        for (size_t end = 0; end < tokens_.size(); ++end)
            note_runs(ends, end);
        ends_.swap(ends);
    }
    if (length > tokens_.capacity())
        tokens_.reserve(std::max(length, 2 * tokens_.capacity()));
}

void TokenHistory::append(int32_t token) {
    reserve(tokens_.size() + 1);
    const bool agrees = repeat_.length > 0 && token == tokens_[repeat_.end];
    note_runs(ends_, tokens_.size()); // they have a follower now
    tokens_.push_back(token);
    if (agrees)
        repeat_ = {repeat_.end + 1, std::min(repeat_.length + 1, MOST_AGREEING)};
    else
        repeat_ = find();
}

void TokenHistory::truncate(size_t length) {
    tokens_.resize(std::min(length, tokens_.size()));
    repeat_ = find();
}

int32_t TokenHistory::follower(size_t ahead) const {
    if (repeat_.length == 0)
        return -1;
    return tokens_[repeat_.end + ahead % (tokens_.size() - repeat_.end)];
}

bool TokenHistory::is_run(size_t end, size_t run) const {
    if (end < run)
        return false;
    const auto last = tokens_.begin() + static_cast<ptrdiff_t>(end);
    return std::all_of(last - static_cast<ptrdiff_t>(run), last, [](int32_t token) { return token >= 0; });
}

size_t TokenHistory::hash(size_t end, size_t run) const {
    uint64_t value = run;
    for (size_t i = end - run; i < end; ++i) {
        value = (value ^ static_cast<uint32_t>(tokens_[i])) * 0x9e3779b97f4a7c15u;
        value ^= value >> 32;
    }
    return static_cast<size_t>(value);
}

bool TokenHistory::same_run(size_t one, size_t other, size_t run) const {
    const auto begin = tokens_.begin();
    return std::equal(begin + static_cast<ptrdiff_t>(one - run), begin + static_cast<ptrdiff_t>(one),
                      begin + static_cast<ptrdiff_t>(other - run));
}

// Takes a slot of its own if there is one. Truncated tokens leave entries in the table that mean nothing now.
void TokenHistory::note_runs(std::vector<uint32_t> &ends, size_t end) const {
    for (const size_t run : RUNS) {
        if (!is_run(end, run))
            continue;
        const size_t mask = ends.size() - 1, first = hash(end, run) & mask;
        size_t slot = first;
        for (size_t probe = 0; probe < PROBES; ++probe) {
            const size_t candidate = (first + probe) & mask, known = ends[candidate];
            if (known < run || known >= end || same_run(known, end, run)) {
                slot = candidate;
                break;
            }
        }
        ends[slot] = static_cast<uint32_t>(end);
    }
}

Repeat TokenHistory::find() const {
    const size_t length = tokens_.size();
    for (const size_t run : RUNS) {
        if (!is_run(length, run))
            continue;
        const size_t mask = ends_.size() - 1, first = hash(length, run) & mask;
        for (size_t probe = 0; probe < PROBES; ++probe) {
            const size_t end = ends_[(first + probe) & mask];
            if (end == 0)
                break;
            const size_t agreeing = end < length ? count_agreeing(end) : 0;
            if (agreeing >= run)
                return {end, agreeing};
        }
    }
    return {};
}

// How many tokens before `end` are the session's last ones.
size_t TokenHistory::count_agreeing(size_t end) const {
    const size_t most = std::min(end, MOST_AGREEING);
    size_t count = 0;
    while (count < most && tokens_[end - 1 - count] == tokens_[tokens_.size() - 1 - count] &&
           tokens_[end - 1 - count] >= 0)
        ++count;
    return count;
}

} // namespace v2e
