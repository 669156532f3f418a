// Files and a host's pixels become pictures.
#pragma once

#include "picture/decode/source.hpp"
#include "picture/picture.hpp"
#include "picture/pixel_meter.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace v2e {

// The caller's options, or the defaults for NULL. Fails with V2E_ERROR_INPUT.
PictureOptions complete_options(const v2e_picture_options *options);

// What a file is, by its first bytes.
v2e_picture_kind kind_of(Bytes bytes);

// Reads headers alone. Fails with V2E_ERROR_INPUT for what is damaged, empty or too large.
PictureHeader inspect_picture(Bytes bytes, const PictureOptions &options);

// Fails with V2E_ERROR_INPUT for what is damaged, empty or too large, with V2E_ERROR_UNREAD for what the core does not
// read, and as the meter does.
std::shared_ptr<const Picture> decode_picture(Bytes bytes, const PictureOptions &options, PixelMeter &meter);

// stride: bytes from a row to the next one below; 0: they follow one another. Fails with V2E_ERROR_INPUT for sizes, and
// as the meter does.
std::shared_ptr<const Picture> picture_from_pixels(const uint8_t *pixels, Size size, ptrdiff_t stride,
                                                   v2e_pixel_format format, const PictureOptions &options,
                                                   PixelMeter &meter);

} // namespace v2e
