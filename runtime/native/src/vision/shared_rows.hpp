// The rows of one tile on their way through a matrix, on all threads together. A tile has fewer rows than many threads
// could share by blocks, so a task is some of the rows with some of the panels.
#pragma once

#include "base/platform.hpp"
#include "vision/tower.hpp"

#include <cstddef>

namespace v2e {

// How a product is cut into tasks: it never changes a result.
struct ProductPlan {
    size_t rows; // most rows of a task, whatever the number of threads
    size_t row_blocks;
    size_t panels; // most panels of a task
    size_t panel_blocks;

    ProductPlan(size_t row_count, size_t panel_count, unsigned threads);

    size_t tasks() const { return row_blocks * panel_blocks; }
};

class SharedRows {
  public:
    // Reserves memory for `rows` rows of up to `columns` values.
    void reserve(size_t rows, size_t columns, unsigned threads);
    static Saturating bytes(Saturating rows, Saturating columns, unsigned threads);

    // Rows of so many values to the elements of an arithmetic. row_of(buffer, index) returns the floats of a row,
    // readable up to a multiple of 16: it may write them to the buffer, which is the thread's own. Notes a stage that
    // is not finite.
    template <class RowOf>
    void pack(TowerEngine &engine, const VisionArithmetic &arithmetic, size_t columns, size_t count, RowOf &&row_of,
              StageCheck &check, int stage) {
        count_ = count;
        stride_ = row_words(arithmetic, columns);
        engine.run(count, [&](size_t worker, size_t index) {
            const float *row = row_of(buffers_.data() + worker * buffer_floats_, index);
            check.note(arithmetic.pack_row(row, columns, words_.data() + index * stride_, scales_.data() + index,
                                           zeros_.data() + index),
                       stage);
        });
    }
    // The packed rows times a matrix with as many columns; output: (count, stride).
    void multiply(TowerEngine &engine, const TowerMatrix &matrix, float *output, size_t stride, Finish finish);

    // A packed row, as pack_row made it.
    const uint32_t *words(size_t row) const { return words_.data() + row * stride_; }

  private:
    size_t count_ = 0, stride_ = 0, buffer_floats_ = 0, placed_words_ = 0;
    AlignedBuffer<uint32_t> words_;
    AlignedBuffer<float> scales_;
    AlignedBuffer<int32_t> zeros_;
    AlignedBuffer<float> buffers_;    // a row for each thread
    AlignedBuffer<uint32_t> placed_;  // a task's rows for each thread, as place_row puts them
    AlignedBuffer<uint32_t> scratch_; // converted words of a panel for each thread
};

} // namespace v2e
