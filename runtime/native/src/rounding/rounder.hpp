// Kernels of rounding on the rows of a matrix, by several threads.
#pragma once

#include "base/thread_pool.hpp"
#include "cpu/rounding/rounding_kernels.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

// Rows are a multiple of ROUNDING_ROWS, and results do not depend on the number of threads.
class Rounder {
  public:
    // Fails with V2E_ERROR_INPUT where the machine lacks the instruction set.
    Rounder(uint32_t threads, uint32_t isa);

    // weights (rows, columns) with a stride; scales, zeros (groups, rows). Returns RoundingFaults.
    uint32_t fit_groups(const GroupGrid &grid, const float *weights, size_t stride, const float *importance,
                        size_t rows, size_t columns, float *scales, float *zeros);
    uint32_t round_columns(const ColumnBlock &block);
    // hessian (count, count) with a stride; added (count,). The block's curvature is made of them.
    void visit_columns(VisitBlock block, const float *hessian, size_t stride, const float *added);
    // target += changes * matrix: (rows, inner) times (inner, columns); most of the changes are 0.
    void add_sparse_product(const float *changes, size_t rows, size_t inner, const float *matrix, size_t matrix_stride,
                            size_t columns, float *target, size_t target_stride);

  private:
    const RoundingKernels &kernels_;
    ThreadPool pool_;
};

} // namespace v2e
