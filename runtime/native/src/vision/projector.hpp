// What all projectors are (docs/valley2.md, "Projector"): a tile's square of patches becomes a square of tokens.
#pragma once

#include "vision/tower.hpp"

#include <cstddef>

namespace v2e {

constexpr size_t KERNEL_SIDE = 3; // rows and columns of a projector's convolution
constexpr size_t TAPS = KERNEL_SIDE * KERNEL_SIDE;
constexpr size_t OUTSIDE = static_cast<size_t>(-1); // no patch of the tile

class Projector : public NativeTower {
  public:
    size_t input_floats() const override { return patches() * channels_; }
    Saturating output_floats(Saturating tiles) const override { return tiles * tokens() * output_; }

  protected:
    static constexpr size_t MOST_WIDTH = 1 << 16;
    static constexpr size_t MOST_ENTRIES = 1 << 20; // of a vocabulary, or of a layer in the middle

    Projector(TowerFile file, const TowerOptions &options);

    size_t patches() const { return side_ * side_; }
    size_t tokens() const { return token_side_ * token_side_; }
    // The patch under a tap (y, x) of a convolution with a stride of two and zeros around the tile.
    size_t patch_under(size_t token, size_t tap) const;
    // Copies the first values of a token to their place in the output; false when one is not finite.
    static bool copy_token(const float *values, size_t count, float *output);

    size_t side_; // patches of a row
    size_t
        token_side_; // tokens of a row: as a convolution with a stride of two makes them, unless a type says otherwise
    size_t channels_, output_;
};

} // namespace v2e
