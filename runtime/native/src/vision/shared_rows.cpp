#include "vision/shared_rows.hpp"

#include "vision/row_block.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr size_t TASKS_PER_THREAD = 3; // for threads of unequal speed
constexpr size_t REGISTER_TILE = 12;   // a multiple of the rows of every register tile
constexpr size_t PADDING = 2 * VISION_PANEL;
constexpr size_t TASK_ROWS = round_up(MOST_BLOCK_ROWS, VISION_MOST_ROWS);
constexpr size_t SCRATCH_WORDS = VISION_BLOCK_WORDS * VISION_PANEL;

constexpr size_t parts(size_t size, size_t part) {
    return (size + part - 1) / part;
}

} // namespace

ProductPlan::ProductPlan(size_t row_count, size_t panel_count, unsigned threads)
    : rows(round_up(parts(row_count, parts(row_count, MOST_BLOCK_ROWS)), REGISTER_TILE)),
      row_blocks(parts(row_count, rows)) {
    const size_t wanted = std::min(parts(TASKS_PER_THREAD * threads, row_blocks), panel_count);
    panels = parts(panel_count, wanted);
    panel_blocks = parts(panel_count, panels);
}

void SharedRows::reserve(size_t rows, size_t columns, unsigned threads) {
    buffer_floats_ = round_up(columns, PADDING);
    placed_words_ = TASK_ROWS * buffer_floats_;
    words_.reserve(rows * buffer_floats_);
    scales_.reserve(rows);
    zeros_.reserve(rows);
    buffers_.reserve(threads * buffer_floats_);
    placed_.reserve(threads * placed_words_);
    scratch_.reserve(threads * SCRATCH_WORDS);
}

Saturating SharedRows::bytes(Saturating rows, Saturating columns, unsigned threads) {
    const Saturating width = (columns + PADDING - 1) / PADDING * PADDING;
    return 4 * (rows * (width + 2) + threads * ((1 + TASK_ROWS) * width + SCRATCH_WORDS));
}

void SharedRows::multiply(TowerEngine &engine, const TowerMatrix &matrix, float *output, size_t stride, Finish finish) {
    const VisionArithmetic &arithmetic = engine.arithmetic(matrix);
    const ProductPlan plan(count_, matrix.panel_count(), engine.threads());
    engine.run(plan.tasks(), [&](size_t worker, size_t task) {
        const size_t row = task % plan.row_blocks * plan.rows, panel = task / plan.row_blocks * plan.panels;
        const size_t count = std::min(plan.rows, count_ - row);
        uint32_t *placed = placed_.data() + worker * placed_words_;
        for (size_t index = 0; index < count; ++index)
            place_row(arithmetic, words(row + index), matrix.columns, index, count, placed);
        const VisionRows rows{placed, 0, scales_.data() + row, zeros_.data() + row, count, &engine.stop()};
        arithmetic.multiply(matrix.panels, panel, std::min(panel + plan.panels, matrix.panel_count()), rows,
                            {output + row * stride, stride, finish}, scratch_.data() + worker * SCRATCH_WORDS);
    });
}

} // namespace v2e
