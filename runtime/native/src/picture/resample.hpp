// Bicubic resampling of 8-bit RGB, equal to Pillow's bit for bit (version 13; see is_vertical_first).
#pragma once

#include "picture/geometry.hpp"
#include "picture/pixel_meter.hpp"

#include <cstdint>

namespace v2e {

// source: (size.height, size.width, 3); destination: (new_size.height, new_size.width, 3). The meter may end it with
// V2E_ERROR_CANCELLED.
void resize(const uint8_t *source, Size size, uint8_t *destination, Size new_size, PixelMeter &meter);

} // namespace v2e
