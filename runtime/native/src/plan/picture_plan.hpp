// The pictures of a question, planned anew for each way in which they may become tokens.
#pragma once

#include "picture/geometry.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e {

// pictures: (count), of which width and height are read. Fails with V2E_ERROR_INPUT for a picture that cannot be
// planned.
std::vector<v2e_geometry> plan_pictures(const v2e_geometry *pictures, size_t count, const GeometryOptions &options);

// Positions that the pictures take.
uint64_t picture_tokens(const v2e_geometry *pictures, size_t count, const GeometryOptions &options);

// The most Eagle tokens that the options leave of a picture.
uint64_t eagle_cap(const GeometryOptions &options);
// The fewest, to which smaller pictures are enlarged.
uint64_t eagle_floor(const GeometryOptions &options);
// A cap on Eagle tokens as pixels.
uint64_t eagle_pixels(uint64_t tokens);

} // namespace v2e
