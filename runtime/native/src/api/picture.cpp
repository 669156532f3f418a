// The functions of valley2.h about pictures.
#include "api/picture.hpp"

#include "api/arguments.hpp"
#include "api/cancel.hpp"
#include "picture/decode/decode.hpp"

#include <algorithm>
#include <chrono>

struct v2e_picture {
    std::shared_ptr<const v2e::Picture> picture;
};

using namespace v2e;

namespace {

// Looks at the caller's cancel, then asks his callback.
PixelMeter meter_of(const v2e_picture_options *options) {
    if (options == nullptr)
        return PixelMeter({});
    const v2e_picture_options given = read_options(options);
    auto stop = std::make_shared<StopFlag>(flag_of(given.cancel));
    return PixelMeter([given, stop, begin = std::chrono::steady_clock::now()] {
        if (stop->stops() || given.callback == nullptr)
            return !stop->stops();
        v2e_event event{};
        event.struct_size = sizeof event;
        event.kind = V2E_EVENT_PIXELS;
        event.elapsed_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
        return given.callback(&event, given.user_data) == 0;
    });
}

Bytes bytes_of(const void *bytes, size_t size) {
    if (bytes == nullptr && size > 0)
        fail(V2E_ERROR_INPUT, "The argument bytes is NULL.");
    return {static_cast<const uint8_t *>(bytes), size};
}

v2e_picture_description describe(const PictureHeader &header) {
    v2e_picture_description description{};
    description.kind = header.kind;
    description.readable = header.readable;
    if (header.readable) {
        description.width = header.upright().width;
        description.height = header.upright().height;
        description.orientation = header.orientation;
        description.frames = header.frames;
    }
    return description;
}

// Makes a picture and hands it to the caller.
template <class Make>
v2e_status make_picture(const v2e_picture_options *options, v2e_picture **picture, Make &&make) {
    return guard([&] {
        require(picture, "picture");
        *picture = nullptr;
        const PictureOptions complete = complete_options(options);
        PixelMeter meter = meter_of(options);
        meter.add(PixelMeter::STEP); // a cancel that is set already is heard
        *picture = new v2e_picture{make(complete, meter)};
    });
}

} // namespace

std::shared_ptr<const Picture> v2e::picture_of(const v2e_picture *picture) {
    return picture == nullptr ? nullptr : picture->picture;
}

uint32_t v2e_picture_kind_of(const void *bytes, size_t size) {
    return kind_of({static_cast<const uint8_t *>(bytes), bytes == nullptr ? 0 : size});
}

v2e_status v2e_picture_inspect(const void *bytes, size_t size, const v2e_picture_options *options,
                               v2e_picture_description *description) {
    return guard([&] {
        write_struct(describe(inspect_picture(bytes_of(bytes, size), complete_options(options))), description,
                     "description");
    });
}

v2e_status v2e_picture_decode(const void *bytes, size_t size, const v2e_picture_options *options,
                              v2e_picture **picture) {
    return make_picture(options, picture, [&](const PictureOptions &complete, PixelMeter &meter) {
        return decode_picture(bytes_of(bytes, size), complete, meter);
    });
}

v2e_status v2e_picture_from_pixels(const void *pixels, uint32_t width, uint32_t height, ptrdiff_t stride,
                                   uint32_t format, const v2e_picture_options *options, v2e_picture **picture) {
    return make_picture(options, picture, [&](const PictureOptions &complete, PixelMeter &meter) {
        const auto *first = static_cast<const uint8_t *>(pixels);
        require(first, "pixels");
        if (format > V2E_PIXELS_GREY)
            fail(V2E_ERROR_INPUT, "There is no pixel format %u.", format);
        return picture_from_pixels(first, {width, height}, stride, static_cast<v2e_pixel_format>(format), complete,
                                   meter);
    });
}

v2e_status v2e_picture_describe(const v2e_picture *picture, v2e_picture_description *description) {
    return guard([&] {
        require(picture, "picture");
        write_struct(describe(picture->picture->header()), description, "description");
    });
}

v2e_status v2e_picture_digest(const v2e_picture *picture, uint8_t *digest) {
    return guard([&] {
        require(picture, "picture");
        require(digest, "digest");
        const Digest::Value &value = picture->picture->digest();
        std::copy(value.begin(), value.end(), digest);
    });
}

const uint8_t *v2e_picture_pixels(const v2e_picture *picture) {
    return picture == nullptr ? nullptr : picture->picture->pixels();
}

void v2e_picture_close(v2e_picture *picture) {
    delete picture;
}
