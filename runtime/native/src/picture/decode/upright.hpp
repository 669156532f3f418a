// Turning a picture as its EXIF orientation says.
#pragma once

#include "picture/geometry.hpp"
#include "picture/pixel_meter.hpp"

#include <cstdint>
#include <memory>

namespace v2e {

// pixels: (height, width, 3) of size; orientation: 1 to 8 (Exif 2.32, 4.6.4). With 5 to 8 rows become columns.
std::unique_ptr<uint8_t[]> turn_upright(std::unique_ptr<uint8_t[]> pixels, Size size, uint32_t orientation,
                                        PixelMeter &meter);

} // namespace v2e
