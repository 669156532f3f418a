// The functions of valley2_parts.h about rounding.
#include "api/arguments.hpp"
#include "rounding/rounder.hpp"
#include "valley2_parts.h"

#include <memory>

struct v2e_rounder {
    v2e::Rounder rounder;
};

using namespace v2e;

static_assert(static_cast<int>(V2E_ROUNDING_NOT_FINITE) == static_cast<int>(ROUNDING_NOT_FINITE));
static_assert(static_cast<int>(V2E_ROUNDING_SCALE_TOO_LARGE) == static_cast<int>(ROUNDING_SCALE_TOO_LARGE));

namespace {

GroupGrid read_grid(const v2e_grid *given) {
    const v2e_grid grid = read_options(given);
    const bool sizes = grid.group_size == 32 || grid.group_size == 64 || grid.group_size == 128;
    if (!sizes || (grid.bits != 4 && grid.bits != 8) || (grid.bits == 8 && grid.has_zeros != 0))
        fail(V2E_ERROR_INPUT, "There is no grid of %u bits in groups of %u columns with has_zeros %u.", grid.bits,
             grid.group_size, grid.has_zeros);
    const bool four = grid.bits == 4;
    return {grid.group_size,      four ? 0.0f : 1.0f,  four ? 15.0f : 255.0f,
            four ? 8.0f : 128.0f, grid.has_zeros != 0, grid.search != 0};
}

// A whole number of 16 rows, of groups, and of columns within the kernels' reach.
void require_shape(const GroupGrid &grid, uint64_t rows, uint64_t columns, bool whole_groups, uint64_t most) {
    if (rows % ROUNDING_ROWS != 0 || columns == 0 || columns > most || (whole_groups && columns % grid.group_size != 0))
        fail(V2E_ERROR_INPUT, "%llu rows of %llu columns cannot be rounded in groups of %zu.",
             static_cast<unsigned long long>(rows), static_cast<unsigned long long>(columns), grid.group_size);
}

Rounder &rounder_of(v2e_rounder *handle) {
    require(handle, "rounder");
    return handle->rounder;
}

} // namespace

v2e_status v2e_rounder_open(uint32_t threads, uint32_t isa, v2e_rounder **rounder) {
    return guard([&] {
        require(rounder, "rounder");
        *rounder = nullptr;
        *rounder = new v2e_rounder{Rounder(threads, isa)};
    });
}

void v2e_rounder_close(v2e_rounder *rounder) {
    delete rounder;
}

v2e_status v2e_fit_groups(v2e_rounder *rounder, const v2e_grid *grid, const float *weights, uint64_t stride,
                          const float *importance, uint64_t rows, uint64_t columns, float *scales, float *zeros,
                          uint32_t *faults) {
    return guard([&] {
        require(weights, "weights");
        require(importance, "importance");
        require(scales, "scales");
        require(zeros, "zeros");
        require(faults, "faults");
        const GroupGrid read = read_grid(grid);
        require_shape(read, rows, columns, true, SIZE_MAX);
        *faults = rounder_of(rounder).fit_groups(read, weights, stride, importance, rows, columns, scales, zeros);
    });
}

v2e_status v2e_round_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_column_block *block,
                             uint32_t *faults) {
    return guard([&] {
        const v2e_column_block given = read_options(block);
        require(given.columns, "columns");
        require(given.triangle, "triangle");
        require(given.targets, "targets");
        require(given.weights, "weights");
        require(given.scales, "scales");
        require(given.zeros, "zeros");
        require(given.values, "values");
        require(faults, "faults");
        const GroupGrid read = read_grid(grid);
        const bool fits = given.fits_groups != 0;
        if (fits)
            require(given.importance, "importance");
        require_shape(read, given.rows, given.count, fits, ROUNDING_COLUMNS);
        for (uint64_t i = 0; i < given.count; ++i)
            if (given.columns[i] >= given.all_columns)
                fail(V2E_ERROR_INPUT, "Column %u is not one of %llu.", given.columns[i],
                     static_cast<unsigned long long>(given.all_columns));
        *faults =
            rounder_of(rounder).round_columns({read, given.rows, given.count, fits, given.columns, given.triangle,
                                               given.triangle_stride, given.importance, given.targets, given.weights,
                                               given.scales, given.zeros, given.values, given.all_columns});
    });
}

v2e_status v2e_visit_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_visit_block *block) {
    return guard([&] {
        const v2e_visit_block given = read_options(block);
        require(given.hessian, "hessian");
        require(given.added, "added");
        require(given.slopes, "slopes");
        require(given.values, "values");
        require(given.scales, "scales");
        require(given.zeros, "zeros");
        require(given.changes, "changes");
        require(given.gains, "gains");
        require(given.moved, "moved");
        const GroupGrid read = read_grid(grid);
        const bool updates = given.updates_slopes != 0;
        require_shape(read, given.rows, given.count, true, updates ? ROUNDING_INNER : ROUNDING_COLUMNS);
        const VisitBlock visit{read,
                               given.rows,
                               given.count,
                               static_cast<int>(given.rounds),
                               given.fits_scales != 0,
                               updates,
                               nullptr,
                               0,
                               given.slopes,
                               given.slope_stride,
                               given.values,
                               given.value_stride,
                               given.scales,
                               given.zeros,
                               given.changes,
                               given.gains,
                               given.moved};
        rounder_of(rounder).visit_columns(visit, given.hessian, given.hessian_stride, given.added);
    });
}

v2e_status v2e_add_sparse_product(v2e_rounder *rounder, const float *changes, uint64_t rows, uint64_t inner,
                                  const float *matrix, uint64_t matrix_stride, uint64_t columns, float *target,
                                  uint64_t target_stride) {
    return guard([&] {
        require(changes, "changes");
        require(matrix, "matrix");
        require(target, "target");
        if (inner > ROUNDING_INNER || columns % ROUNDING_ROWS != 0)
            fail(V2E_ERROR_INPUT,
                 "A sparse product has at most %zu inner columns and whole 16 columns, not %llu and %llu.",
                 ROUNDING_INNER, static_cast<unsigned long long>(inner), static_cast<unsigned long long>(columns));
        rounder_of(rounder).add_sparse_product(changes, rows, inner, matrix, matrix_stride, columns, target,
                                               target_stride);
    });
}
