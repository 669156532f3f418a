// How one picture becomes tiles, patches and tokens: integers only, no pixels (docs/valley2.md, "Pictures").
#pragma once

#include "valley2_parts.h"

#include <cstdint>
#include <limits>
#include <vector>

namespace v2e {

struct Size {
    uint32_t width;
    uint32_t height;

    bool operator==(const Size &) const = default;
};

// v2e_geometry_options with the defaults filled in and checked.
struct GeometryOptions {
    uint32_t tile_size;       // pixels
    uint32_t tokens_per_side; // tokens a side of one tile's grid
    bool tiled;
    bool unpad;
    uint32_t max_vision_token;
    bool eagle;
    uint64_t eagle_min_pixels;
    uint64_t eagle_max_pixels;
    std::vector<Size> canvases; // in order of preference
};

inline constexpr uint32_t LARGEST_SIDE = std::numeric_limits<int32_t>::max(); // pixels: areas stay below 2^62
inline constexpr uint32_t EAGLE_PATCH_SIZE = 14;                              // pixels
inline constexpr uint32_t EAGLE_BLOCK_SIZE = 2; // patches, side of the block that makes one token
inline constexpr uint32_t EAGLE_FACTOR = EAGLE_PATCH_SIZE * EAGLE_BLOCK_SIZE; // pixels, side of one token

// Fails with V2E_ERROR_INPUT for options that contradict each other.
GeometryOptions complete_options(const v2e_geometry_options *given);

// Fails with V2E_ERROR_INPUT for a side of 0, an aspect ratio above 200 with Eagle, and a max_vision_token that leaves
// no token.
v2e_geometry plan_picture(Size picture, const GeometryOptions &options);

// A caller's geometry, which must be the one that plan_picture gives for its width and height: buffers are sized by it.
v2e_geometry confirm_geometry(const v2e_geometry *given, const GeometryOptions &options);

} // namespace v2e
