// Pictures as the two vision towers want them: resized, cut and normalised (docs/valley2.md, "Pictures").
#pragma once

#include "picture/geometry.hpp"
#include "picture/pixel_meter.hpp"

#include <cstdint>

namespace v2e {

// picture: (height, width, 3); tiles: (tile_count, 3, tile_size, tile_size), the global view first. The meter may end
// it with V2E_ERROR_CANCELLED.
void make_tiles(const uint8_t *picture, const v2e_geometry &geometry, const GeometryOptions &options, float *tiles,
                PixelMeter &meter);

// Likewise; patches: (eagle_patches, 3 * 14 * 14); positions: (eagle_patches, 2) row, column.
void make_patches(const uint8_t *picture, const v2e_geometry &geometry, float *patches, int64_t *positions,
                  PixelMeter &meter);

} // namespace v2e
