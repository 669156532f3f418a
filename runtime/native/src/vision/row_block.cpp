#include "vision/row_block.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr size_t TILE = 12; // a multiple of every register tile's rows
constexpr size_t MOST_TILES = MOST_BLOCK_ROWS / TILE;
constexpr size_t LEAST_TILES = 4;       // fewer would read the weights too often
constexpr size_t BLOCKS_PER_THREAD = 3; // for threads of unequal speed
constexpr size_t PADDING = 2 * VISION_PANEL;

} // namespace

BlockPlan::BlockPlan(size_t count, unsigned threads) : count_(count), tiles_((count + TILE - 1) / TILE) {
    const size_t most = std::max<size_t>(tiles_ / LEAST_TILES, 1);
    blocks = std::max((tiles_ + MOST_TILES - 1) / MOST_TILES, std::min<size_t>(BLOCKS_PER_THREAD * threads, most));
    const size_t even = round_up(blocks, threads); // as many for each thread
    if (even <= most)
        blocks = even;
    rows = (tiles_ + blocks - 1) / blocks * TILE;
}

size_t BlockPlan::first(size_t index) const {
    return std::min(index * tiles_ / blocks * TILE, count_);
}

void RowBlock::reserve(size_t columns, size_t outputs) {
    const size_t padded_rows = round_up(MOST_BLOCK_ROWS, VISION_MOST_ROWS);
    words_.reserve(padded_rows * round_up(columns, VISION_BLOCK_WORDS));
    scales_.reserve(padded_rows);
    zeros_.reserve(padded_rows);
    row_.reserve(round_up(columns, PADDING) + PADDING);
    row_words_.reserve(round_up(columns, PADDING));
    wide_.reserve(padded_rows * round_up(outputs, PADDING) + PADDING);
    scratch_.reserve(VISION_BLOCK_WORDS * VISION_PANEL);
}

size_t RowBlock::bytes(size_t columns, size_t outputs) {
    const size_t padded_rows = round_up(MOST_BLOCK_ROWS, VISION_MOST_ROWS);
    return 4 * (padded_rows * (round_up(columns, VISION_BLOCK_WORDS) + round_up(outputs, PADDING) + 2) +
                2 * round_up(columns, PADDING) + VISION_BLOCK_WORDS * VISION_PANEL);
}

void RowBlock::begin(const TowerEngine &engine, size_t count) {
    packed_ = {words_.data(), 0, scales_.data(), zeros_.data(), count, &engine.stop()};
}

bool RowBlock::pack_row(const VisionArithmetic &arithmetic, const float *values, size_t columns, size_t row) {
    const bool finite =
        arithmetic.pack_row(values, columns, row_words_.data(), packed_.scales + row, packed_.zeros + row);
    place_row(arithmetic, row_words_.data(), columns, row, packed_.count, packed_.words);
    return finite;
}

bool RowBlock::pack(const TowerEngine &engine, const TowerMatrix &matrix, const float *rows, size_t stride,
                    size_t count) {
    begin(engine, count);
    bool finite = true;
    for (size_t row = 0; row < count; ++row)
        finite &= pack_row(engine.arithmetic(matrix), rows + row * stride, matrix.columns, row);
    return finite;
}

bool RowBlock::pack_normed(const TowerEngine &engine, const TowerMatrix &matrix, const TowerNorm &norm, float epsilon,
                           const float *rows, size_t stride, size_t count) {
    begin(engine, count);
    bool finite = true;
    for (size_t row = 0; row < count; ++row) {
        finite &= engine.kernels().layer_norm(rows + row * stride, matrix.columns, norm.weight, norm.bias, epsilon,
                                              row_.data());
        finite &= pack_row(engine.arithmetic(matrix), row_.data(), matrix.columns, row);
    }
    return finite;
}

void RowBlock::multiply(const TowerEngine &engine, const TowerMatrix &matrix, float *output, size_t stride,
                        Finish finish) {
    engine.arithmetic(matrix).multiply(matrix.panels, 0, matrix.panel_count(), packed_, {output, stride, finish},
                                       scratch_.data());
}

} // namespace v2e
