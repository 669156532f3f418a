// Some rows of a tower on their way through its matrices, on one thread: everything that needs no other row.
#pragma once

#include "base/platform.hpp"
#include "vision/tower.hpp"

#include <cstddef>

namespace v2e {

constexpr size_t MOST_BLOCK_ROWS = 96; // their activations fit into the second-level cache

// How rows are cut into blocks of nearly equal size: it never changes a result.
class BlockPlan {
  public:
    size_t rows; // most rows of a block
    size_t blocks;

    BlockPlan(size_t count, unsigned threads);

    // The block's first row, and how many it has.
    size_t first(size_t index) const;
    size_t count(size_t index) const { return first(index + 1) - first(index); }

  private:
    size_t count_, tiles_;
};

// The memory of one worker.
class RowBlock {
  public:
    // Reserves memory for inputs of up to `columns` and outputs of up to `outputs` values.
    void reserve(size_t columns, size_t outputs);
    static size_t bytes(size_t columns, size_t outputs);

    // Rows to the elements of a matrix's arithmetic; false when they are not finite.
    bool pack(const TowerEngine &engine, const TowerMatrix &matrix, const float *rows, size_t stride, size_t count);
    // Likewise, after a LayerNorm.
    bool pack_normed(const TowerEngine &engine, const TowerMatrix &matrix, const TowerNorm &norm, float epsilon,
                     const float *rows, size_t stride, size_t count);
    // The packed rows times the matrix.
    void multiply(const TowerEngine &engine, const TowerMatrix &matrix, float *output, size_t stride, Finish finish);

    // (MOST_BLOCK_ROWS, outputs padded to 32): for what lies between two matrices.
    float *wide() { return wide_.data(); }

  private:
    void begin(const TowerEngine &engine, size_t count);
    bool pack_row(const VisionArithmetic &arithmetic, const float *values, size_t columns, size_t row);

    VisionRows packed_{};
    AlignedBuffer<uint32_t> words_; // as place_row puts them
    AlignedBuffer<float> scales_;
    AlignedBuffer<int32_t> zeros_;
    AlignedBuffer<float> row_;          // one, after a norm
    AlignedBuffer<uint32_t> row_words_; // one, before it is put there
    AlignedBuffer<float> wide_;
    AlignedBuffer<uint32_t> scratch_; // converted words of a panel
};

} // namespace v2e
