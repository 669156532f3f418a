// Windows bitmaps, as far as Pillow reads them in a plain way.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"

namespace v2e {

PictureHeader inspect_bmp(Bytes bytes, const PictureOptions &options);

// rgb: (height, width, 3).
void decode_bmp(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter);

} // namespace v2e
