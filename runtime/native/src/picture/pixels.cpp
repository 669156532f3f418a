#include "picture/pixels.hpp"

#include "base/error.hpp"
#include "picture/resample.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace v2e {
namespace {

constexpr size_t CHANNELS = 3;
constexpr size_t PIXEL_VALUES = 256;

using Table = std::array<float, PIXEL_VALUES>; // by 8-bit value

// The reference rescales in double and normalises in float.
Table make_table(double scale, float mean, float deviation) {
    Table table;
    for (size_t value = 0; value < PIXEL_VALUES; ++value)
        table[value] = (static_cast<float>(static_cast<double>(value) * scale) - mean) / deviation;
    return table;
}

const Table &siglip_table() {
    static const Table table = make_table(0.00392156862745098, 0.5f, 0.5f);
    return table;
}

const std::array<Table, CHANNELS> &eagle_tables() {
    static const std::array<Table, CHANNELS> tables = {
        make_table(1.0 / 255.0, 0.48145466f, 0.26862954f),
        make_table(1.0 / 255.0, 0.4578275f, 0.26130258f),
        make_table(1.0 / 255.0, 0.40821073f, 0.27577711f),
    };
    return tables;
}

// Owns the result of a resize, or looks at the source when the size does not change.
class ResizedPicture {
  public:
    ResizedPicture(const uint8_t *source, Size size, Size new_size, PixelMeter &meter) : pixels_(source) {
        if (size != new_size) {
            owned_.resize(CHANNELS * new_size.width * new_size.height);
            resize(source, size, owned_.data(), new_size, meter);
            pixels_ = owned_.data();
        }
    }

    const uint8_t *pixels() const { return pixels_; } // (height, width, 3)

  private:
    std::vector<uint8_t> owned_;
    const uint8_t *pixels_;
};

// Part of a picture that a tile shows: `width` x `height` pixels from (source_x, source_y), put at (tile_x, tile_y).
struct Overlap {
    size_t source_x, source_y;
    size_t tile_x, tile_y;
    size_t width, height;
};

// Length, start in the picture and start in the tile of what one side of them has in common; all in pixels.
struct Span {
    size_t length, source, tile;
};

Span intersect(size_t paste, size_t picture_side, size_t tile_start, size_t tile_size) {
    const size_t start = std::max(paste, tile_start);
    const size_t end = std::min(paste + picture_side, tile_start + tile_size);
    if (start >= end)
        return {0, 0, 0};
    return {end - start, start - paste, start - tile_start};
}

// pixels: rows of `pitch` bytes; tile: (3, tile_size, tile_size), black where the picture does not reach.
void write_tile(const uint8_t *pixels, size_t pitch, const Overlap &overlap, size_t tile_size, float *tile) {
    const Table &table = siglip_table();
    const size_t plane = tile_size * tile_size;
    if (overlap.width != tile_size || overlap.height != tile_size)
        std::fill_n(tile, CHANNELS * plane, table[0]);
    for (size_t y = 0; y < overlap.height; ++y) {
        const uint8_t *pixel = pixels + (overlap.source_y + y) * pitch + overlap.source_x * CHANNELS;
        float *row = tile + (overlap.tile_y + y) * tile_size + overlap.tile_x;
        for (size_t x = 0; x < overlap.width; ++x, pixel += CHANNELS) {
            row[x] = table[pixel[0]];
            row[x + plane] = table[pixel[1]];
            row[x + 2 * plane] = table[pixel[2]];
        }
    }
}

// patch: (3, 14, 14) from the rows of `pitch` bytes at `pixels`.
void write_patch(const uint8_t *pixels, size_t pitch, float *patch) {
    for (size_t channel = 0; channel < CHANNELS; ++channel) {
        const Table &table = eagle_tables()[channel];
        for (size_t y = 0; y < EAGLE_PATCH_SIZE; ++y) {
            const uint8_t *pixel = pixels + y * pitch + channel;
            for (size_t x = 0; x < EAGLE_PATCH_SIZE; ++x)
                *patch++ = table[pixel[x * CHANNELS]];
        }
    }
}

} // namespace

void make_tiles(const uint8_t *picture, const v2e_geometry &geometry, const GeometryOptions &options, float *tiles,
                PixelMeter &meter) {
    const Size size{geometry.width, geometry.height};
    const size_t tile_size = options.tile_size;
    const size_t tile_values = CHANNELS * tile_size * tile_size;

    const ResizedPicture view(picture, size, {options.tile_size, options.tile_size}, meter);
    write_tile(view.pixels(), tile_size * CHANNELS, {0, 0, 0, 0, tile_size, tile_size}, tile_size, tiles);
    if (geometry.tile_count == 1)
        return;
    const ResizedPicture resized(picture, size, {geometry.resized_width, geometry.resized_height}, meter);
    for (size_t row = 0; row < geometry.grid_rows; ++row) {
        const Span rows = intersect(geometry.paste_y, geometry.resized_height, row * tile_size, tile_size);
        for (size_t column = 0; column < geometry.grid_columns; ++column) {
            const Span columns = intersect(geometry.paste_x, geometry.resized_width, column * tile_size, tile_size);
            const Overlap overlap{columns.source, rows.source, columns.tile, rows.tile, columns.length, rows.length};
            tiles += tile_values;
            meter.add(tile_values);
            write_tile(resized.pixels(), geometry.resized_width * CHANNELS, overlap, tile_size, tiles);
        }
    }
}

void make_patches(const uint8_t *picture, const v2e_geometry &geometry, float *patches, int64_t *positions,
                  PixelMeter &meter) {
    if (geometry.eagle_patches == 0)
        fail(V2E_ERROR_INPUT, "The options have no Eagle branch, so there are no patches to make.");
    const Size size{geometry.width, geometry.height};
    const Size fetch{geometry.fetch_width, geometry.fetch_height};
    const Size eagle{geometry.eagle_width, geometry.eagle_height};
    // Two resizes are not one: above the second limit each blurs and rounds on its own.
    const ResizedPicture fetched(picture, size, fetch, meter);
    const ResizedPicture resized(fetched.pixels(), fetch, eagle, meter);
    const size_t pitch = eagle.width * CHANNELS;
    const size_t patch_values = CHANNELS * EAGLE_PATCH_SIZE * EAGLE_PATCH_SIZE;
    const size_t rows = eagle.height / EAGLE_PATCH_SIZE;
    const size_t columns = eagle.width / EAGLE_PATCH_SIZE;
    for (size_t block_row = 0; block_row < rows; block_row += EAGLE_BLOCK_SIZE) {
        for (size_t block_column = 0; block_column < columns; block_column += EAGLE_BLOCK_SIZE) {
            meter.add(EAGLE_BLOCK_SIZE * EAGLE_BLOCK_SIZE * patch_values);
            for (size_t index = 0; index < EAGLE_BLOCK_SIZE * EAGLE_BLOCK_SIZE; ++index) {
                const size_t row = block_row + index / EAGLE_BLOCK_SIZE;
                const size_t column = block_column + index % EAGLE_BLOCK_SIZE;
                const uint8_t *corner = resized.pixels() + row * EAGLE_PATCH_SIZE * pitch;
                write_patch(corner + column * EAGLE_PATCH_SIZE * CHANNELS, pitch, patches);
                patches += patch_values;
                *positions++ = static_cast<int64_t>(row);
                *positions++ = static_cast<int64_t>(column);
            }
        }
    }
}

} // namespace v2e
