// A picture in memory, decoded once and never changed.
#pragma once

#include "base/digest.hpp"
#include "picture/geometry.hpp"
#include "valley2.h"

#include <cstdint>
#include <memory>
#include <mutex>

namespace v2e {

// What a file's headers say about its picture.
struct PictureHeader {
    v2e_picture_kind kind = V2E_PICTURE_UNKNOWN;
    bool readable = false;    // whether the core decodes it; else everything below is as it is here
    Size size{0, 0};          // pixels, before it is turned upright
    uint32_t orientation = 1; // what its EXIF data say, 1 to 8
    uint32_t frames = 1;      // of an animation

    // Pixels, as the picture is shown.
    Size upright() const { return orientation >= 5 ? Size{size.height, size.width} : size; }
};

// Safe for threads.
class Picture {
  public:
    // pixels: (height, width, 3) RGB of header.upright().
    Picture(const PictureHeader &header, std::unique_ptr<uint8_t[]> pixels);

    const PictureHeader &header() const { return header_; }
    Size size() const { return header_.upright(); }
    // (height, width, 3) RGB.
    const uint8_t *pixels() const { return pixels_.get(); }
    // BLAKE2b of the width and the height, four bytes each with the lowest first, and the pixels. The first call
    // computes it.
    const Digest::Value &digest() const;

  private:
    PictureHeader header_;
    std::unique_ptr<uint8_t[]> pixels_;
    mutable std::once_flag once_;
    mutable Digest::Value digest_{};
};

} // namespace v2e
