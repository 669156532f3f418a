// JPEG files, by libjpeg-turbo: what Pillow gives for the same bytes.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"

namespace v2e {

PictureHeader inspect_jpeg(Bytes bytes, const PictureOptions &options);

// rgb: (height, width, 3), not turned upright.
void decode_jpeg(Bytes bytes, const PictureHeader &header, const PictureOptions &options, uint8_t *rgb,
                 PixelMeter &meter);

} // namespace v2e
