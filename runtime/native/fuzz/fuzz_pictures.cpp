// Pictures: 48 bytes of sizes and geometry options, then pixels. What is planned keeps to its own limits, and small
// plans are carried out on buffers of exactly the sizes that the header promises.
#include "fuzz/fuzz.hpp"

#include <cmath>
#include <memory>
#include <vector>

namespace {

constexpr size_t MOST_VALUES = 1 << 14; // most values of a buffer, so that a run is short

// Mostly small, at times hostile.
uint32_t side(fuzz::Input &input) {
    constexpr uint32_t HOSTILE[] = {0, 1, 40000, 1 << 16, INT32_MAX, uint32_t{1} << 31, UINT32_MAX};
    const uint16_t value = input.value<uint16_t>();
    return value % 8 == 7 ? HOSTILE[value / 8 % std::size(HOSTILE)] : value / 8 % 700;
}

// Exactly as long as asked for, filled from the input.
template <class T>
std::unique_ptr<T[]> values(fuzz::Input &input, size_t count) {
    std::unique_ptr<T[]> result(new T[count]);
    for (size_t i = 0; i < count; ++i)
        result[i] = static_cast<T>(input.byte());
    return result;
}

bool fits(std::initializer_list<uint64_t> sizes) {
    uint64_t product = 1;
    for (const uint64_t size : sizes) {
        if (size > MOST_VALUES)
            return false;
        product *= size;
        if (product > MOST_VALUES)
            return false;
    }
    return true;
}

void check(const v2e_geometry &geometry, const v2e_geometry_options &options, uint32_t tile_size,
           uint32_t tokens_per_side) {
    MUST(geometry.tile_count == uint64_t{geometry.grid_columns} * geometry.grid_rows + 1);
    MUST(geometry.siglip_tokens > 0);
    const uint64_t canvas_width = uint64_t{geometry.grid_columns} * tile_size;
    if (options.no_tiles == 0)
        MUST(uint64_t{geometry.paste_x} + geometry.resized_width <= canvas_width);
    if (options.no_tiles == 0 && options.no_unpad == 0)
        MUST(uint64_t{geometry.kept_x} + geometry.kept_columns <= uint64_t{geometry.grid_columns} * tokens_per_side);
    if (options.no_eagle == 0)
        MUST(geometry.eagle_tokens * 4 == geometry.eagle_patches && geometry.eagle_width % 28 == 0);
}

void carry_out(fuzz::Input &input, const v2e_geometry &geometry, const v2e_geometry_options &options,
               uint32_t tile_size, uint32_t tokens_per_side) {
    if (!fits({geometry.width, geometry.height, 3}))
        return;
    const auto picture = values<uint8_t>(input, size_t{3} * geometry.width * geometry.height);
    if (fits({geometry.tile_count, 3, tile_size, tile_size})) {
        const size_t count = size_t{geometry.tile_count} * 3 * tile_size * tile_size;
        const std::unique_ptr<float[]> tiles(new float[count]);
        MUST(v2e_make_tiles(picture.get(), &geometry, &options, tiles.get()) == V2E_OK);
        for (size_t i = 0; i < count; ++i)
            MUST(tiles[i] >= -1.0f && tiles[i] <= 1.0f);
    }
    if (options.no_eagle == 0 && fits({geometry.eagle_patches, 588}) &&
        fits({geometry.fetch_width, geometry.fetch_height, 3})) {
        const std::unique_ptr<float[]> patches(new float[size_t{588} * geometry.eagle_patches]);
        const std::unique_ptr<int64_t[]> positions(new int64_t[size_t{2} * geometry.eagle_patches]);
        MUST(v2e_make_patches(picture.get(), &geometry, &options, patches.get(), positions.get()) == V2E_OK);
    }
    constexpr uint32_t CHANNELS = 2;
    if (fits({geometry.tile_count, tokens_per_side, tokens_per_side, CHANNELS}) &&
        fits({geometry.siglip_tokens, CHANNELS})) {
        const auto tokens =
            values<float>(input, size_t{geometry.tile_count} * tokens_per_side * tokens_per_side * CHANNELS);
        const std::unique_ptr<float[]> stitched(new float[size_t{geometry.siglip_tokens} * CHANNELS]);
        MUST(v2e_stitch_tiles(tokens.get(), &geometry, &options, CHANNELS, stitched.get()) == V2E_OK);
        for (size_t i = 0; i < size_t{geometry.siglip_tokens} * CHANNELS; ++i)
            MUST(stitched[i] >= 0.0f && stitched[i] <= 255.5f);
    }
}

void resize(fuzz::Input &input, uint32_t width, uint32_t height) {
    const uint32_t new_width = side(input), new_height = side(input);
    if (!fits({width, height, 3}) || !fits({new_width, new_height, 3}))
        return;
    const auto source = values<uint8_t>(input, size_t{3} * width * height);
    const std::unique_ptr<uint8_t[]> target(new uint8_t[size_t{3} * new_width * new_height]);
    const v2e_status status = fuzz::seen(v2e_resize(source.get(), width, height, target.get(), new_width, new_height));
    MUST((status == V2E_OK) == (width > 0 && height > 0 && new_width > 0 && new_height > 0));
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    constexpr size_t OPTION_BYTES = 48;
    if (size < OPTION_BYTES)
        return 0;
    fuzz::Input choices(data, OPTION_BYTES), pixels(data + OPTION_BYTES, size - OPTION_BYTES);
    const uint32_t width = side(choices), height = side(choices);
    v2e_geometry_options options{};
    options.struct_size = sizeof options;
    options.tile_size = side(choices);
    options.tokens_per_side = choices.byte() % 4 == 0 ? side(choices) : choices.byte() % 16;
    options.no_tiles = choices.byte() % 2 == 0;
    options.no_unpad = choices.byte() % 2 == 0;
    options.no_eagle = choices.byte() % 2 == 0;
    options.max_vision_token = choices.byte() % 2 == 0 ? 0 : side(choices);
    options.eagle_min_pixels = choices.byte() % 2 == 0 ? 0 : choices.value<uint64_t>();
    options.eagle_max_pixels = choices.byte() % 2 == 0 ? 0 : choices.value<uint64_t>();
    const uint32_t tile_size = options.tile_size == 0 ? 384 : options.tile_size;
    const uint32_t tokens_per_side = options.tokens_per_side == 0 ? 14 : options.tokens_per_side;
    uint32_t canvases[8];
    options.canvas_count = choices.byte() % 5;
    for (uint32_t &canvas : canvases) { // whole tiles, but for one of 16
        const uint8_t tiles = choices.byte();
        canvas = tiles % 16 == 0 ? tiles : tile_size * (tiles % 16);
    }
    options.canvases = canvases;
    v2e_geometry geometry{};
    geometry.struct_size = sizeof geometry;
    if (fuzz::seen(v2e_plan_picture(width, height, &options, &geometry)) == V2E_OK) {
        check(geometry, options, tile_size, tokens_per_side);
        carry_out(pixels, geometry, options, tile_size, tokens_per_side);
    }
    resize(pixels, width, height);
    return 0;
}
