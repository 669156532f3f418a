// Matrix products of the decoder: output = input * matrix^T + bias.
#pragma once

#include "matrix.hpp"
#include "platform.hpp"
#include "thread_pool.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

struct LinearKernels;

// Activations in int8 planes, per token and group of columns: value = (128 * high + low) * scale, or low * scale when
// there is one plane. Grows with the largest product and is kept by its owner, a session.
struct LinearScratch {
    AlignedBuffer<int8_t> high;   // (count, columns); int16 activations only
    AlignedBuffer<int8_t> low;    // (count, columns)
    AlignedBuffer<float> scales;  // (count, groups)
    AlignedBuffer<int32_t> sums;  // (count, groups): sum of the integers of a group
    AlignedBuffer<float> partial; // (count, 64): results of a last panel that has fewer than 64 rows
};

// The same token gives the same bits for every thread count and every split of the tokens into calls: each output is
// one chain of additions in the order of the columns.
class Linear {
  public:
    // Fails with V2E_ERROR_INPUT for an instruction set that the machine lacks. AUTO takes the best one.
    Linear(v2e_isa isa, v2e_activations activations, ThreadPool &pool);

    v2e_isa isa() const { return isa_; }

    // output (count, matrix.rows), input (count, matrix.columns); strides from row to row in floats.
    // The scratch must not be in use by another call.
    void apply(const Matrix &matrix, const float *input, size_t count, size_t input_stride, float *output,
               size_t output_stride, LinearScratch &scratch) const;

  private:
    void quantize(const Matrix &matrix, const float *input, size_t count, size_t input_stride,
                  LinearScratch &scratch) const;

    v2e_isa isa_;
    v2e_activations activations_;
    ThreadPool &pool_;
    const LinearKernels *kernels_;
};

} // namespace v2e
