#include "picture/pixels.hpp"
#include "api/arguments.hpp"
#include "picture/geometry.hpp"
#include "picture/resample.hpp"
#include "picture/stitch.hpp"
#include "valley2_parts.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace v2e {
namespace {

void require_size(Size size) {
    if (size.width == 0 || size.height == 0 || size.width > LARGEST_SIDE || size.height > LARGEST_SIDE) {
        fail(V2E_ERROR_INPUT, "Cannot resize from or to %u x %u pixels; each side must be 1 to %u.", size.width,
             size.height, LARGEST_SIDE);
    }
}

// Asks the caller of the options while pixels are computed.
PixelMeter meter_of(const v2e_geometry_options *options) {
    const v2e_geometry_options given = read_options(options);
    if (given.callback == nullptr)
        return PixelMeter({});
    return PixelMeter([given, begin = std::chrono::steady_clock::now()] {
        v2e_event event{};
        event.struct_size = sizeof event;
        event.kind = V2E_EVENT_PIXELS;
        event.elapsed_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
        return given.callback(&event, given.user_data) == 0;
    });
}

} // namespace
} // namespace v2e

v2e_status v2e_plan_picture(uint32_t width, uint32_t height, const v2e_geometry_options *options,
                            v2e_geometry *geometry) {
    return v2e::guard([&] {
        v2e::write_struct(v2e::plan_picture({width, height}, v2e::complete_options(options)), geometry, "geometry");
    });
}

v2e_status v2e_resize(const uint8_t *source, uint32_t width, uint32_t height, uint8_t *destination, uint32_t new_width,
                      uint32_t new_height) {
    return v2e::guard([&] {
        v2e::require(source, "source");
        v2e::require(destination, "destination");
        v2e::require_size({width, height});
        v2e::require_size({new_width, new_height});
        v2e::PixelMeter meter({});
        v2e::resize(source, {width, height}, destination, {new_width, new_height}, meter);
    });
}

v2e_status v2e_make_tiles(const uint8_t *picture, const v2e_geometry *geometry, const v2e_geometry_options *options,
                          float *tiles) {
    return v2e::guard([&] {
        v2e::require(picture, "picture");
        v2e::require(tiles, "tiles");
        const v2e::GeometryOptions complete = v2e::complete_options(options);
        v2e::PixelMeter meter = v2e::meter_of(options);
        v2e::make_tiles(picture, v2e::confirm_geometry(geometry, complete), complete, tiles, meter);
    });
}

v2e_status v2e_make_patches(const uint8_t *picture, const v2e_geometry *geometry, const v2e_geometry_options *options,
                            float *patches, int64_t *positions) {
    return v2e::guard([&] {
        v2e::require(picture, "picture");
        v2e::require(patches, "patches");
        v2e::require(positions, "positions");
        const v2e::GeometryOptions complete = v2e::complete_options(options);
        v2e::PixelMeter meter = v2e::meter_of(options);
        v2e::make_patches(picture, v2e::confirm_geometry(geometry, complete), patches, positions, meter);
    });
}

v2e_status v2e_stitch_tiles(const float *tile_tokens, const v2e_geometry *geometry, const v2e_geometry_options *options,
                            uint32_t channels, float *tokens) {
    return v2e::guard([&] {
        v2e::require(tile_tokens, "tile_tokens");
        v2e::require(tokens, "tokens");
        if (channels == 0) {
            v2e::fail(V2E_ERROR_INPUT, "A token must have at least one channel.");
        }
        const v2e::GeometryOptions complete = v2e::complete_options(options);
        v2e::stitch_tiles(tile_tokens, v2e::confirm_geometry(geometry, complete), complete, channels, tokens);
    });
}
