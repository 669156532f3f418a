// Tile tokens become one picture's tokens (docs/valley2.md, "From tiles to tokens").
#pragma once

#include "picture/geometry.hpp"

#include <cstddef>

namespace v2e {

// tile_tokens: (tile_count, tokens_per_side^2, channels); tokens: (siglip_tokens, channels).
void stitch_tiles(const float *tile_tokens, const v2e_geometry &geometry, const GeometryOptions &options,
                  size_t channels, float *tokens);

} // namespace v2e
