#include "vision/projector.hpp"

#include <algorithm>
#include <cmath>

namespace v2e {
namespace {

constexpr size_t MOST_SIDE = 1024;

} // namespace

Projector::Projector(TowerFile file, const TowerOptions &options)
    : NativeTower(std::move(file), options), side_(file_.size("patches_per_side", MOST_SIDE)),
      token_side_((side_ + 1) / 2), channels_(file_.size("input_size", MOST_WIDTH)),
      output_(file_.size("output_size", MOST_WIDTH)) {}

size_t Projector::patch_under(size_t token, size_t tap) const {
    // Beyond `side_` where it is above or to the left of the tile.
    const size_t y = 2 * (token / token_side_) + tap / KERNEL_SIDE - 1;
    const size_t x = 2 * (token % token_side_) + tap % KERNEL_SIDE - 1;
    return y < side_ && x < side_ ? y * side_ + x : OUTSIDE;
}

bool Projector::copy_token(const float *values, size_t count, float *output) {
    std::copy_n(values, count, output);
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

} // namespace v2e
