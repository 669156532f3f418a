// The bytes of a picture's file, and how its readers refuse them.
#pragma once

#include "picture/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace v2e {

using Bytes = std::span<const uint8_t>;

// How large pictures may be (valley2_edge/picture_limits.py has the same numbers).
inline constexpr uint64_t DEFAULT_MAX_PIXELS = 100'000'000;
inline constexpr uint64_t MAX_PIXELS = 178'956'970;         // the highest limit that can be chosen
inline constexpr uint64_t BYTES_PER_PIXEL = 8;              // of a file: four samples of 16 bits
inline constexpr uint64_t SPARE_BYTES = uint64_t{64} << 20; // for what else a file holds

struct PictureOptions {
    uint64_t max_pixels; // width times height at most
    bool strict;         // as the reference: no orientation, 16 bits cut off at 255
    std::string name;    // what messages call the picture, at the beginning of a sentence
};

// Fails with V2E_ERROR_INPUT: "NAME is truncated or damaged: REASON."
[[noreturn]] void fail_damaged(const PictureOptions &options, const char *reason);

// Fails with V2E_ERROR_INPUT for a picture without pixels, or with too many.
void check_size(uint64_t width, uint64_t height, const PictureOptions &options);

// Fails with V2E_ERROR_INPUT for a file that is larger than any picture of the largest size.
void check_bytes(size_t size, const PictureOptions &options);

// Whether the bytes from a place on are these.
bool has_text(Bytes bytes, size_t place, std::string_view text);

// Numbers in a file, the lowest byte first or last; the caller has looked whether the bytes are there.
inline uint16_t low16(const uint8_t *bytes) {
    return static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
}
inline uint16_t high16(const uint8_t *bytes) {
    return static_cast<uint16_t>(bytes[0] << 8 | bytes[1]);
}
inline uint32_t low32(const uint8_t *bytes) {
    return low16(bytes) | static_cast<uint32_t>(low16(bytes + 2)) << 16;
}
inline uint32_t high32(const uint8_t *bytes) {
    return static_cast<uint32_t>(high16(bytes)) << 16 | high16(bytes + 2);
}

// Reads one piece after the other; one that is not there is damage.
class ByteReader {
  public:
    ByteReader(Bytes bytes, const PictureOptions &options) : bytes_(bytes), options_(options) {}

    size_t place() const { return place_; }
    size_t left() const { return bytes_.size() - place_; }
    // The next bytes, so many of them.
    Bytes take(size_t count);
    uint8_t take_byte() { return take(1)[0]; }
    // The next bytes, fewer when there are no more.
    Bytes take_some(size_t count) { return take(count < left() ? count : left()); }

  private:
    Bytes bytes_;
    size_t place_ = 0;
    const PictureOptions &options_;
};

} // namespace v2e
