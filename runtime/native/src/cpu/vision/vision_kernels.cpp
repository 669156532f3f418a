#include "cpu/vision/vision_kernels.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

namespace v2e {
namespace {

const VisionKernels *find_kernels(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_AVX512_VNNI:
        return vision_kernels_avx512();
    case V2E_ISA_AVX_VNNI:
    case V2E_ISA_AVX2:
        return vision_kernels_avx2();
    case V2E_ISA_NEON:
        return vision_kernels_neon();
    case V2E_ISA_PORTABLE:
        return vision_kernels_portable();
    case V2E_ISA_AUTO:
        return find_kernels(best_isa());
    }
    return nullptr;
}

} // namespace

void place_row(const VisionArithmetic &arithmetic, const uint32_t *row, size_t columns, size_t index, size_t count,
               uint32_t *words) {
    const size_t rows = arithmetic.tile_rows, size = row_words(arithmetic, columns);
    const size_t block = round_up(count, rows) * VISION_BLOCK_WORDS;
    const size_t behind = index + 1 == count ? (rows - count % rows) % rows : 0; // rows of the tile that are none
    uint32_t *tile = words + index / rows * rows * VISION_BLOCK_WORDS + index % rows;
    for (size_t first = 0; first < size; first += VISION_BLOCK_WORDS, tile += block)
        for (size_t word = 0; word < VISION_BLOCK_WORDS && first + word < size; ++word) {
            tile[word * rows] = row[first + word];
            for (size_t i = 1; i <= behind; ++i)
                tile[word * rows + i] = 0;
        }
}

const VisionKernels &vision_kernels(v2e_isa isa) {
    const VisionKernels *kernels = find_kernels(isa);
    if (kernels == nullptr)
        fail(V2E_ERROR_INPUT, "This machine or this build does not have the instruction set %s.", isa_name(isa));
    return *kernels;
}

} // namespace v2e
