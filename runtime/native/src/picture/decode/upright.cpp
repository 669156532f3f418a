#include "picture/decode/upright.hpp"

#include <algorithm>
#include <cstddef>

namespace v2e {

std::unique_ptr<uint8_t[]> turn_upright(std::unique_ptr<uint8_t[]> pixels, Size size, uint32_t orientation,
                                        PixelMeter &meter) {
    constexpr uint32_t BLOCK = 32; // pixels of a side that are moved together, so that both ends stay in the cache
    const bool transposed = orientation >= 5;
    const bool mirrored = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
    const bool flipped = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    const size_t width = size.width, height = size.height;
    // Where the first pixel goes in the turned picture, and how far apart neighbours of a row and of a column come.
    const size_t new_width = transposed ? height : width, new_height = transposed ? width : height;
    const auto row_step = static_cast<ptrdiff_t>(3 * new_width) * (flipped ? -1 : 1);
    const ptrdiff_t column_step = mirrored ? -3 : 3;
    auto turned = std::make_unique_for_overwrite<uint8_t[]>(3 * width * height);
    uint8_t *first = turned.get() + 3 * ((flipped ? new_height - 1 : 0) * new_width + (mirrored ? new_width - 1 : 0));
    const ptrdiff_t right = transposed ? row_step : column_step;
    const ptrdiff_t down = transposed ? column_step : row_step;
    for (uint32_t top = 0; top < size.height; top += BLOCK) {
        const uint32_t bottom = std::min(size.height, top + BLOCK);
        meter.add(size_t{3} * width * (bottom - top));
        for (uint32_t begin = 0; begin < size.width; begin += BLOCK) {
            const uint32_t end = std::min(size.width, begin + BLOCK);
            for (uint32_t row = top; row < bottom; ++row) {
                const uint8_t *source = pixels.get() + 3 * (width * row + begin);
                uint8_t *target = first + down * static_cast<ptrdiff_t>(row) + right * static_cast<ptrdiff_t>(begin);
                for (uint32_t column = begin; column < end; ++column, source += 3, target += right) {
                    target[0] = source[0];
                    target[1] = source[1];
                    target[2] = source[2];
                }
            }
        }
    }
    return turned;
}

} // namespace v2e
