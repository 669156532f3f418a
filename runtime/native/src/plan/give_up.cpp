#include "plan/give_up.hpp"

namespace v2e {
namespace {

// The lowest level of a step that fits while all others stay as they are; its present level does.
void take_back(Levels &levels, size_t step, const std::function<bool(const Levels &)> &fits) {
    uint64_t low = 0, high = levels[step];
    while (low < high) {
        levels[step] = low + (high - low) / 2;
        if (fits(levels))
            high = levels[step];
        else
            low = levels[step] + 1;
    }
    levels[step] = high;
}

} // namespace

std::optional<Levels> give_up(const Levels &ends, const std::function<bool(const Levels &)> &fits) {
    Levels levels(ends.size(), 0);
    bool fitting = fits(levels);
    size_t taken = 0;
    while (!fitting && taken < ends.size()) {
        levels[taken] = ends[taken];
        ++taken;
        if (levels[taken - 1] > 0)
            fitting = fits(levels);
    }
    if (!fitting)
        return std::nullopt;
    while (taken > 0)
        take_back(levels, --taken, fits);
    return levels;
}

} // namespace v2e
