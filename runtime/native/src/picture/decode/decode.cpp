#include "picture/decode/decode.hpp"

#include "base/error.hpp"
#include "picture/decode/bmp.hpp"
#include "picture/decode/gif.hpp"
#include "picture/decode/upright.hpp"
#if defined(V2E_JPEG)
#include "picture/decode/jpeg.hpp"
#endif
#if defined(V2E_PNG)
#include "picture/decode/png.hpp"
#endif
#if defined(V2E_WEBP)
#include "picture/decode/webp.hpp"
#endif

#include <array>
#include <cstring>
#include <limits>
#include <utility>

namespace v2e {
namespace {

using namespace std::string_view_literals;

// A kind whose library this build has not is not readable.
PictureHeader inspect_kind(v2e_picture_kind kind, Bytes bytes, const PictureOptions &options) {
    switch (kind) {
#if defined(V2E_JPEG)
    case V2E_PICTURE_JPEG:
        return inspect_jpeg(bytes, options);
#endif
#if defined(V2E_PNG)
    case V2E_PICTURE_PNG:
        return inspect_png(bytes, options);
#endif
#if defined(V2E_WEBP)
    case V2E_PICTURE_WEBP:
        return inspect_webp(bytes, options);
#endif
    case V2E_PICTURE_GIF:
        return inspect_gif(bytes, options);
    case V2E_PICTURE_BMP:
        return inspect_bmp(bytes, options);
    default:
        return PictureHeader{.kind = kind};
    }
}

void decode_kind(const PictureHeader &header, Bytes bytes, const PictureOptions &options, uint8_t *rgb,
                 PixelMeter &meter) {
    switch (header.kind) {
#if defined(V2E_JPEG)
    case V2E_PICTURE_JPEG:
        return decode_jpeg(bytes, header, options, rgb, meter);
#endif
#if defined(V2E_PNG)
    case V2E_PICTURE_PNG:
        return decode_png(bytes, options, rgb, meter);
#endif
#if defined(V2E_WEBP)
    case V2E_PICTURE_WEBP:
        return decode_webp(bytes, header, options, rgb, meter);
#endif
    case V2E_PICTURE_GIF:
        return decode_gif(bytes, options, rgb, meter);
    default:
        return decode_bmp(bytes, options, rgb, meter);
    }
}

// (height, width, 3), black.
std::unique_ptr<uint8_t[]> new_pixels(Size size) {
    return std::make_unique<uint8_t[]>(size_t{3} * size.width * size.height);
}

// How a host's pixel is stored: its bytes, and the places of red, green and blue in them.
struct PixelLayout {
    size_t bytes;
    std::array<size_t, 3> places;
};

PixelLayout layout_of(v2e_pixel_format format) {
    switch (format) {
    case V2E_PIXELS_RGB:
        return {3, {0, 1, 2}};
    case V2E_PIXELS_RGBA:
        return {4, {0, 1, 2}};
    case V2E_PIXELS_BGR:
        return {3, {2, 1, 0}};
    case V2E_PIXELS_BGRA:
        return {4, {2, 1, 0}};
    case V2E_PIXELS_GREY:
        return {1, {0, 0, 0}};
    }
    fail(V2E_ERROR_INPUT, "There is no pixel format %d.", static_cast<int>(format));
}

} // namespace

v2e_picture_kind kind_of(Bytes bytes) {
    if (has_text(bytes, 0, "\xff\xd8\xff"sv))
        return V2E_PICTURE_JPEG;
    if (has_text(bytes, 0, "\x89PNG\r\n\x1a\n"sv))
        return V2E_PICTURE_PNG;
    if (has_text(bytes, 0, "GIF87a"sv) || has_text(bytes, 0, "GIF89a"sv))
        return V2E_PICTURE_GIF;
    if (has_text(bytes, 0, "RIFF"sv) && has_text(bytes, 8, "WEBPVP8"sv))
        return V2E_PICTURE_WEBP;
    return has_text(bytes, 0, "BM"sv) ? V2E_PICTURE_BMP : V2E_PICTURE_UNKNOWN;
}

PictureOptions complete_options(const v2e_picture_options *options) {
    PictureOptions complete{DEFAULT_MAX_PIXELS, false, "The picture"};
    if (options == nullptr)
        return complete;
    const v2e_picture_options given = read_options(options);
    if (given.max_pixels > MAX_PIXELS)
        fail(V2E_ERROR_INPUT, "max_pixels can be %llu at most.", static_cast<unsigned long long>(MAX_PIXELS));
    if (given.max_pixels != 0)
        complete.max_pixels = given.max_pixels;
    complete.strict = given.strict != 0;
    if (given.name != nullptr)
        complete.name = given.name;
    return complete;
}

PictureHeader inspect_picture(Bytes bytes, const PictureOptions &options) {
    check_bytes(bytes.size(), options);
    return inspect_kind(kind_of(bytes), bytes, options);
}

std::shared_ptr<const Picture> decode_picture(Bytes bytes, const PictureOptions &options, PixelMeter &meter) {
    const PictureHeader header = inspect_picture(bytes, options);
    if (!header.readable)
        fail(V2E_ERROR_UNREAD, "%s is of a kind or a variant that this library does not read.", options.name.c_str());
    std::unique_ptr<uint8_t[]> pixels = new_pixels(header.size);
    decode_kind(header, bytes, options, pixels.get(), meter);
    if (header.orientation != 1)
        pixels = turn_upright(std::move(pixels), header.size, header.orientation, meter);
    return std::make_shared<const Picture>(header, std::move(pixels));
}

std::shared_ptr<const Picture> picture_from_pixels(const uint8_t *pixels, Size size, ptrdiff_t stride,
                                                   v2e_pixel_format format, const PictureOptions &options,
                                                   PixelMeter &meter) {
    const PixelLayout layout = layout_of(format);
    check_size(size.width, size.height, options);
    const size_t row_bytes = layout.bytes * size.width;
    if (stride == 0)
        stride = static_cast<ptrdiff_t>(row_bytes);
    const size_t apart = stride < 0 ? size_t{0} - static_cast<size_t>(stride) : static_cast<size_t>(stride);
    if (apart < row_bytes && size.height > 1)
        fail(V2E_ERROR_INPUT, "%s has rows of %zu bytes, which lie only %zu bytes apart.", options.name.c_str(),
             row_bytes, apart);
    PictureHeader header{.kind = V2E_PICTURE_PIXELS, .readable = true, .size = size};
    std::unique_ptr<uint8_t[]> copied = new_pixels(size);
    uint8_t *rgb = copied.get();
    for (uint32_t row = 0; row < size.height; ++row) {
        meter.add(size_t{3} * size.width);
        const uint8_t *pixel = pixels + static_cast<ptrdiff_t>(row) * stride;
        if (format == V2E_PIXELS_RGB) {
            std::memcpy(rgb, pixel, row_bytes);
            rgb += row_bytes;
            continue;
        }
        for (uint32_t column = 0; column < size.width; ++column, pixel += layout.bytes, rgb += 3)
            for (size_t channel = 0; channel < 3; ++channel)
                rgb[channel] = pixel[layout.places[channel]];
    }
    return std::make_shared<const Picture>(header, std::move(copied));
}

} // namespace v2e
