// The first frame of GIF files (GIF89a specification), as Pillow shows it.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"

namespace v2e {

PictureHeader inspect_gif(Bytes bytes, const PictureOptions &options);

// rgb: (height, width, 3).
void decode_gif(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter);

} // namespace v2e
