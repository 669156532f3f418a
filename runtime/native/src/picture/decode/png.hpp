// PNG files: their pixels unpacked by zlib, everything else read here, so that what Pillow refuses is refused.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"

namespace v2e {

PictureHeader inspect_png(Bytes bytes, const PictureOptions &options);

// rgb: (height, width, 3), black, not turned upright.
void decode_png(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter);

} // namespace v2e
