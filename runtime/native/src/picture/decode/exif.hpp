// How a picture's metadata say that it is to be turned: what Pillow's getexif reads, and nothing else.
#pragma once

#include "picture/decode/source.hpp"

namespace v2e {

// What a file holds about its orientation.
struct OrientationNotes {
    bool has_exif = false;
    Bytes exif; // a TIFF directory, with or without "Exif" before it
    Bytes xmp;  // XML
};

// 1 to 8; 1, upright, where nothing says else or nothing can be read.
uint32_t orientation_of(const OrientationNotes &notes);

} // namespace v2e
