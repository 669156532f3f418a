#include "rounding/rounder.hpp"

#include "cpu/isa.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

namespace v2e {
namespace {

// Columns of a sparse product that are computed for all rows before the next ones: their part of a matrix of
// ROUNDING_INNER rows takes half of the second-level cache.
constexpr size_t PRODUCT_COLUMNS = 64;
// What lies between the rows of the curvature, so that they do not compete for the same lines of the cache.
constexpr size_t PADDING = 16;

// The entries of a matrix that are not 0, row by row.
struct SparseRows {
    std::vector<size_t> starts; // (rows + 1,)
    std::vector<uint32_t> columns;
    std::vector<float> values;

    SparseRows(const float *dense, size_t rows, size_t count) {
        starts.reserve(rows + 1);
        for (size_t row = 0; row < rows; ++row) {
            starts.push_back(columns.size());
            for (size_t column = 0; column < count; ++column) {
                const float value = dense[row * count + column];
                if (value != 0.0f) {
                    columns.push_back(static_cast<uint32_t>(column));
                    values.push_back(value);
                }
            }
        }
        starts.push_back(columns.size());
    }
};

} // namespace

Rounder::Rounder(uint32_t threads, uint32_t isa)
    : kernels_(rounding_kernels(chosen_isa(isa))), pool_(chosen_threads(threads)) {}

uint32_t Rounder::fit_groups(const GroupGrid &grid, const float *weights, size_t stride, const float *importance,
                             size_t rows, size_t columns, float *scales, float *zeros) {
    const size_t groups = columns / grid.group_size;
    std::atomic<uint32_t> faults{0};
    pool_.run(rows / ROUNDING_ROWS, [&](size_t task) {
        const size_t row = task * ROUNDING_ROWS;
        faults |= kernels_.fit_groups(grid, weights + row * stride, stride, importance, 0, groups, scales + row,
                                      zeros + row, rows);
    });
    return faults;
}

uint32_t Rounder::round_columns(const ColumnBlock &block) {
    std::atomic<uint32_t> faults{0};
    pool_.run(block.rows / ROUNDING_ROWS,
              [&](size_t task) { faults |= kernels_.round_columns(block, task * ROUNDING_ROWS); });
    return faults;
}

void Rounder::visit_columns(VisitBlock block, const float *hessian, size_t stride, const float *added) {
    const size_t count = block.count;
    std::vector<float> curvature(count * (count + PADDING));
    block.curvature = curvature.data();
    block.curvature_stride = count + PADDING;
    for (size_t row = 0; row < count; ++row) {
        float *copy = curvature.data() + row * block.curvature_stride;
        std::copy_n(hessian + row * stride, count, copy);
        copy[row] += added[row];
    }
    pool_.run(block.rows / ROUNDING_ROWS, [&](size_t task) { kernels_.visit_columns(block, task * ROUNDING_ROWS); });
}

void Rounder::add_sparse_product(const float *changes, size_t rows, size_t inner, const float *matrix,
                                 size_t matrix_stride, size_t columns, float *target, size_t target_stride) {
    const SparseRows sparse(changes, rows, inner);
    pool_.run((columns + PRODUCT_COLUMNS - 1) / PRODUCT_COLUMNS, [&](size_t task) {
        const size_t first = task * PRODUCT_COLUMNS, count = std::min(PRODUCT_COLUMNS, columns - first);
        for (size_t row = 0; row < rows; ++row) {
            const size_t start = sparse.starts[row], entries = sparse.starts[row + 1] - start;
            if (entries != 0)
                kernels_.add_rows(sparse.columns.data() + start, sparse.values.data() + start, entries, matrix + first,
                                  matrix_stride, target + row * target_stride + first, count);
        }
    });
}

} // namespace v2e
