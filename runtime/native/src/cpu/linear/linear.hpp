// Matrix products of the decoder: output = input * matrix^T + bias.
#pragma once

#include "base/platform.hpp"
#include "base/thread_pool.hpp"
#include "bundle/matrix.hpp"
#include "cpu/elementwise/elementwise.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

struct FloatRows;
struct IntegerTile;
struct LinearKernels;
struct RowTiles;

// Activations in int8 planes, per token and group of columns: value = (128 * high + low) * scale, or low * scale when
// there is one plane. The rows lie in tiles; see IntegerRows.
struct QuantizedRows {
    AlignedBuffer<int8_t> high;  // count * columns; int16 activations only
    AlignedBuffer<int8_t> low;   // count * columns
    AlignedBuffer<float> scales; // count * groups
    AlignedBuffer<int32_t> sums; // count * groups: sum of the integers of a group
};

// Grows with the largest product and is kept by its owner, a session.
struct LinearScratch {
    QuantizedRows input;
    QuantizedRows middle;        // the rows between the two products of a feed-forward block
    AlignedBuffer<float> gated;  // (count, gate_up.rows), where a feed-forward block goes through floats
    AlignedBuffer<float> blocks; // each thread's results on their way to where they belong
    // The owner's, null for none: a product that it stops fails with V2E_ERROR_CANCELLED.
    const StopFlag *stop = nullptr;
};

// What happens to the results.
enum class Placing { store, add };

// The same token gives the same bits for every thread count and every split of the tokens into calls: each output is
// one chain of additions in the order of the columns.
class Linear {
  public:
    // Fails with V2E_ERROR_INPUT for an instruction set that the machine lacks. AUTO takes the best one.
    Linear(v2e_isa isa, v2e_activations activations, ThreadPool &pool);
    // Takes other kernels for the products than those of the instruction set. Null means those of the instruction set.
    Linear(v2e_isa isa, const LinearKernels *kernels, v2e_activations activations, ThreadPool &pool);

    v2e_isa isa() const { return isa_; }

    // output (count, matrix.rows) = or += input (count, matrix.columns) * matrix^T + bias; strides from row to row in
    // floats. The scratch must not be in use by another call.
    void apply(const Matrix &matrix, const float *input, size_t count, size_t input_stride, float *output,
               size_t output_stride, LinearScratch &scratch, Placing placing = Placing::store) const;

    // output (count, down.rows) += down(SwiGLU(gate_up(input))), after Shazeer (2020), "GLU Variants Improve
    // Transformer", section 2; the first half of gate_up's rows are the gate. Returns false when a value between them
    // is a NaN or an infinity. No strides: rows follow each other.
    bool feed_forward(const Matrix &gate_up, const Matrix &down, const float *input, size_t count, float *output,
                      LinearScratch &scratch) const;

  private:
    struct Blocks;

    void multiply(const Matrix &matrix, const QuantizedRows &quantized, const FloatRows &input, float *output,
                  size_t output_stride, LinearScratch &scratch, Placing placing) const;
    bool fill_middle(const Matrix &gate_up, const Matrix &down, size_t count, LinearScratch &scratch) const;
    void quantize(const Matrix &matrix, const float *input, size_t count, size_t stride, QuantizedRows &target,
                  const StopFlag *stop) const;
    void reserve(const Matrix &matrix, size_t count, QuantizedRows &rows) const;
    IntegerTile tile_of(const Matrix &matrix, QuantizedRows &target, const RowTiles &tiles, size_t tile,
                        size_t column) const;
    template <class Body>
    void for_blocks(const Blocks &blocks, LinearScratch &scratch, Body &&body) const;

    v2e_isa isa_;
    bool two_planes_;
    ThreadPool &pool_;
    const LinearKernels *kernels_;
    const ElementwiseKernels *elementwise_;
};

// Bytes of LinearScratch that `count` rows need: `input` of a product, `middle` or `gated` of a feed-forward block, and
// `blocks`.
size_t linear_bytes(const Matrix &matrix, size_t count, bool two_planes);
size_t feed_forward_bytes(const Matrix &gate_up, const Matrix &down, size_t count, bool two_planes);
size_t linear_block_bytes(size_t count, unsigned threads);

} // namespace v2e
