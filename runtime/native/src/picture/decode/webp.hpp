// WebP files, by libwebp: the first frame of what Pillow shows.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"

namespace v2e {

PictureHeader inspect_webp(Bytes bytes, const PictureOptions &options);

// rgb: (height, width, 3), black, not turned upright.
void decode_webp(Bytes bytes, const PictureHeader &header, const PictureOptions &options, uint8_t *rgb,
                 PixelMeter &meter);

} // namespace v2e
