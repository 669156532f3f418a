#include "vision/row_block.hpp"

#include <algorithm>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t LEAST_BLOCK_ROWS = 48; // fewer would read the weights too often
constexpr size_t BLOCKS_PER_THREAD = 3; // for threads of unequal speed
constexpr size_t PADDING = 2 * VISION_PANEL;

} // namespace

BlockPlan::BlockPlan(size_t count, unsigned threads) {
    const size_t wanted = (count + BLOCKS_PER_THREAD * threads - 1) / (BLOCKS_PER_THREAD * threads);
    // A multiple of every register tile.
    rows = round_up(std::clamp(wanted, LEAST_BLOCK_ROWS, MOST_BLOCK_ROWS), 12);
    blocks = (count + rows - 1) / rows;
}

void RowBlock::reserve(size_t columns, size_t outputs) {
    const size_t padded_rows = round_up(MOST_BLOCK_ROWS, VISION_MOST_ROWS);
    words_.reserve(padded_rows * round_up(columns, PADDING));
    scales_.reserve(padded_rows);
    zeros_.reserve(padded_rows);
    row_.reserve(round_up(columns, PADDING) + PADDING);
    wide_.reserve(padded_rows * round_up(outputs, PADDING) + PADDING);
    scratch_.reserve(VISION_BLOCK_WORDS * VISION_PANEL);
}

size_t RowBlock::bytes(size_t columns, size_t outputs) {
    const size_t padded_rows = round_up(MOST_BLOCK_ROWS, VISION_MOST_ROWS);
    return 4 * (padded_rows * (round_up(columns, PADDING) + round_up(outputs, PADDING) + 2) +
                round_up(columns, PADDING) + VISION_BLOCK_WORDS * VISION_PANEL);
}

VisionRows RowBlock::begin(const TowerEngine &engine, const TowerMatrix &matrix, size_t count) {
    const VisionArithmetic &arithmetic = engine.arithmetic(matrix);
    const size_t stride = row_words(arithmetic, matrix.columns);
    // A tile multiplies whole: its last rows may hold anything that is a number.
    const size_t padded = round_up(count, arithmetic.tile_rows);
    std::memset(words_.data() + count * stride, 0, (padded - count) * stride * sizeof(uint32_t));
    return {words_.data(), stride, scales_.data(), zeros_.data(), count, &engine.stop()};
}

bool RowBlock::pack(const TowerEngine &engine, const TowerMatrix &matrix, const float *rows, size_t stride,
                    size_t count) {
    const VisionArithmetic &arithmetic = engine.arithmetic(matrix);
    packed_ = begin(engine, matrix, count);
    bool finite = true;
    for (size_t row = 0; row < count; ++row)
        finite &= arithmetic.pack_row(rows + row * stride, matrix.columns, packed_.words + row * packed_.stride,
                                      packed_.scales + row, packed_.zeros + row);
    return finite;
}

bool RowBlock::pack_normed(const TowerEngine &engine, const TowerMatrix &matrix, const TowerNorm &norm, float epsilon,
                           const float *rows, size_t stride, size_t count) {
    const VisionArithmetic &arithmetic = engine.arithmetic(matrix);
    packed_ = begin(engine, matrix, count);
    bool finite = true;
    for (size_t row = 0; row < count; ++row) {
        finite &= engine.kernels().layer_norm(rows + row * stride, matrix.columns, norm.weight, norm.bias, epsilon,
                                              row_.data());
        finite &= arithmetic.pack_row(row_.data(), matrix.columns, packed_.words + row * packed_.stride,
                                      packed_.scales + row, packed_.zeros + row);
    }
    return finite;
}

void RowBlock::multiply(const TowerEngine &engine, const TowerMatrix &matrix, float *output, size_t stride,
                        Finish finish) {
    engine.arithmetic(matrix).multiply(matrix.panels, 0, matrix.panel_count(), packed_, {output, stride, finish},
                                       scratch_.data());
}

} // namespace v2e
