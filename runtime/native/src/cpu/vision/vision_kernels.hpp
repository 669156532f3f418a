// The table of functions that each instruction set provides for the vision towers (docs/vision.md).
//
// Every product is one of rows of 32-bit words with panels of such words: a word holds four bytes, two 16-bit values or
// one float, whatever the instruction set multiplies at once. Weights, keys and values are panels; activations, queries
// and probabilities are rows.
#pragma once

#include "base/stop_flag.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

constexpr size_t VISION_PANEL = 32;     // outputs of a matrix that lie together
constexpr size_t VISION_LANES = 16;     // rows of floats are padded to a multiple of them, and may be read up to there
constexpr size_t VISION_MOST_ROWS = 16; // no register tile has more rows
constexpr size_t VISION_BLOCK_WORDS = 64; // words of a panel, 8 KiB, that stay in the first-level cache together

constexpr size_t round_up(size_t value, size_t step) {
    return (value + step - 1) / step * step;
}

// How a matrix (outputs, columns) lies in the file:
//   int8  weight (panels, ceil(columns / 4), 32, 4) int8, scales, sums; weight = q * scale
//   bf16  weight (panels, ceil(columns / 2), 32, 2) bf16; scales and sums are null
//   fp32  weight (panels, columns, 32, 1) float; likewise
enum class VisionPrecision { int8, bf16, fp32 };

// Values in a 32-bit word of the file.
constexpr size_t values_in_word(VisionPrecision precision) {
    return precision == VisionPrecision::int8 ? 4 : precision == VisionPrecision::bf16 ? 2 : 1;
}

struct VisionPanels {
    const std::byte *weight;
    const float *scales; // (panels * 32,)
    const int32_t *sums; // (panels * 32,): of q over the columns
    const float *bias;   // (panels * 32,), null when there is none
    size_t columns;
    const uint32_t *picks = nullptr; // (pick_count,): the only words of each output that are multiplied; null: all
    size_t pick_count = 0;
};

// Rows ready for a product or for attention. A value is scale * (element - zero); without integers the element is the
// value.
struct VisionRows {
    // For a product (blocks, tiles, VISION_BLOCK_WORDS, tile_rows), as place_row puts them: in the order in which a
    // register tile reads them. For attention (tile_rows, stride).
    uint32_t *words;
    size_t stride;  // words from one row to the next; means nothing in a product
    float *scales;  // (count,)
    int32_t *zeros; // (count,)
    size_t count;
    // Looked at before each block of a panel and each block of keys; where it stops, the output means nothing.
    const StopFlag *stop = nullptr;
};

// What becomes of a sum with its bias before it goes to the output.
enum class Finish { store, add, gelu, gelu_tanh, quick_gelu };

struct VisionOutput {
    float *values; // where row 0 and output 0 lie
    size_t stride; // floats
    Finish finish; // add: to what is there
};

// Keys and values of one head of one picture, as panels.
struct VisionHead {
    uint32_t *keys;      // (ceil(count / 32), key words, 32)
    float *key_scales;   // (count rounded up to 32,)
    int32_t *key_sums;   // likewise
    uint32_t *values;    // (value words, head size rounded up to 16)
    float *value_scales; // (head size rounded up to 16,)
    size_t count;        // keys
    size_t size;         // channels of the head
};

// The arithmetic with matrices of one precision.
struct VisionArithmetic {
    size_t per_word;  // elements of a row in a word
    size_t tile_rows; // buffers of rows are padded to a multiple of them

    // Converts one row to elements; returns false when it holds a NaN or an infinity. row: readable up to a multiple of
    // 16.
    bool (*pack_row)(const float *row, size_t columns, uint32_t *words, float *scale, int32_t *zero);
    // rows * panels [first, last), transposed. scratch: VISION_BLOCK_WORDS * 32 words.
    void (*multiply)(const VisionPanels &panels, size_t first, size_t last, const VisionRows &rows,
                     const VisionOutput &output, uint32_t *scratch);
    // keys, values: of the head's first token, rows with a stride in floats, readable up to a multiple of 16 channels.
    void (*pack_head)(const float *keys, const float *values, size_t stride, const VisionHead &head);
    // Softmax of scale * queries * keys, times values. Up to tile_rows queries, as pack_row made them; output: (count,
    // size) with a stride. False when a result is not finite.
    bool (*attend)(const VisionRows &queries, const VisionHead &head, float scale, float *output, size_t stride,
                   float *scratch);
};

struct VisionKernels {
    VisionArithmetic int8;
    VisionArithmetic bf16;
    VisionArithmetic fp32;
    bool multiplies_bf16; // else matrices in bf16 are widened to fp32
    // LayerNorm of one row; false when a result is not finite. All pointers: readable up to a multiple of 16.
    bool (*layer_norm)(const float *row, size_t size, const float *weight, const float *bias, float epsilon,
                       float *output);
    // row = e^(row - its largest value), zero behind `size`; returns the sum. The row is finite.
    float (*soften_row)(float *row, size_t size);
    // The sum of the values below `limit`. No value is negative.
    float (*sum_below)(const float *row, size_t size, float limit);

    const VisionArithmetic &arithmetic(VisionPrecision precision) const {
        return precision == VisionPrecision::int8 ? int8 : precision == VisionPrecision::bf16 ? bf16 : fp32;
    }
};

constexpr size_t VISION_KEYS = 512; // that a tile of queries holds scores for

// Floats of scratch that one call of attend needs.
constexpr size_t vision_attention_floats(size_t head_size) {
    return VISION_MOST_ROWS * (2 * VISION_KEYS + round_up(head_size, VISION_LANES));
}

// Words of a row of so many elements.
inline size_t row_words(const VisionArithmetic &arithmetic, size_t columns) {
    return round_up(columns, VISION_LANES) / arithmetic.per_word;
}

// Words that `count` rows of so many columns take in a product.
inline size_t product_words(const VisionArithmetic &arithmetic, size_t columns, size_t count) {
    return round_up(count, arithmetic.tile_rows) * round_up(row_words(arithmetic, columns), VISION_BLOCK_WORDS);
}

// Puts a row that pack_row made, the `index`th of `count`, where a product wants it. A register tile multiplies whole:
// behind the last row the rest of the tile becomes zeros.
void place_row(const VisionArithmetic &arithmetic, const uint32_t *row, size_t columns, size_t index, size_t count,
               uint32_t *words);

// Fails with V2E_ERROR_INPUT where this machine or this build lacks the instruction set.
const VisionKernels &vision_kernels(v2e_isa isa);

// Null in a build without them.
const VisionKernels *vision_kernels_portable();
const VisionKernels *vision_kernels_avx2();
const VisionKernels *vision_kernels_avx512();
const VisionKernels *vision_kernels_neon();

} // namespace v2e
