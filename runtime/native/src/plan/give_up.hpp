// The order in which things are given up until the rest fits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace v2e {

// How far each step of a list is taken: 0 leaves everything as it is wanted, and each level costs less than the one
// before it.
using Levels = std::vector<uint64_t>;

// Takes the steps in their order, each to its end, until the rest fits; then takes back, the last first, what there is
// room for. Where a further level never costs more, no step is taken without need, and of all levels that fit the last
// step's is the lowest, then that of the one before it, and so on. `ends` has each step's last level. The levels that
// are returned are those that fitted when `fits` was asked last. Returns nothing when even the ends do not fit, about
// which `fits` was then asked last. Asks at most once for each step and for each
// halving of its levels.
std::optional<Levels> give_up(const Levels &ends, const std::function<bool(const Levels &)> &fits);

} // namespace v2e
