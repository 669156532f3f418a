// The arithmetic of GPTQ, for sixteen rows of a matrix at a time: one row in each lane of a vector. Every lane does the
// same operations in the same order, so that a row's result depends neither on its place nor on its neighbours.
#pragma once

#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

inline constexpr size_t ROUNDING_ROWS = 16;     // rows that a kernel computes at a time
inline constexpr size_t ROUNDING_COLUMNS = 128; // columns that are rounded or visited together; at most
inline constexpr size_t ROUNDING_INNER = 1024;  // columns whose changes are collected in a list; at most

// The levels that a group of weights may take: weight = (value - zero) * scale.
struct GroupGrid {
    size_t group_size;     // 32, 64 or 128
    float lowest, highest; // values: 0 and 15, or 1 and 255
    float fixed_zero;      // the zero point without stored ones: 8 or 128
    bool has_zeros;        // whether each group has a zero point of its own
    bool search;           // whether scales are searched; otherwise they cover the range
};

// What was wrong with the weights.
enum RoundingFault : uint32_t { ROUNDING_NOT_FINITE = 1, ROUNDING_SCALE_TOO_LARGE = 2 };

// A block of positions that GPTQ rounds, from the last one to the first. `rows` is the distance from one position to
// the next in the arrays that lie position by position.
struct ColumnBlock {
    GroupGrid grid;
    size_t rows;
    size_t count;            // positions, at most ROUNDING_COLUMNS
    bool fits_groups;        // whether a group's grid is chosen from the weights as they are when it begins
    const uint32_t *columns; // (count,): the stored column of each position
    const float *triangle;   // (count, count) with a stride: unit lower triangle
    size_t triangle_stride;
    const float *importance; // (count,)
    float *targets;          // (count, rows): weights minus changes of later positions times their factors; becomes
                             // value minus target
    float *weights;          // (count, rows): the exact weights; becomes value minus weight
    float *scales;           // (groups, rows): whole numbers of fp16
    float *zeros;            // (groups, rows)
    uint8_t *values;         // (rows, columns) with a stride, in stored order
    size_t value_stride;
};

// Some columns that are visited by the descent, in blocks of ROUNDING_COLUMNS.
struct VisitBlock {
    GroupGrid grid;
    size_t rows;
    size_t count;           // columns, at most ROUNDING_INNER; whole groups
    int rounds;             // over the columns of a block
    bool fits_scales;       // whether scales are fitted to the integers
    bool updates_slopes;    // whether the changes are applied to the slopes of these columns
    const float *curvature; // (count, count) with a stride: the Hessian with its damping
    size_t curvature_stride;
    float *slopes; // (rows, count) with a stride: changes times the whole Hessian with its damping
    size_t slope_stride;
    uint8_t *values; // (rows, count) with a stride
    size_t value_stride;
    float *scales;      // (groups, rows), from the group of the first column on
    const float *zeros; // likewise
    float *changes;     // (rows, count): new weight minus old weight
    double *gains;      // (rows,): what each row's error fell by is added
    uint8_t *moved;     // (rows,): 1 where a value has changed; stays otherwise
};

struct RoundingKernels {
    // Chooses the grids of groups [first, last) of sixteen rows, which lie (16, columns) with a stride.
    // importance: (columns,). scales, zeros: of these rows, (groups,) with a stride. Returns RoundingFaults.
    uint32_t (*fit_groups)(const GroupGrid &grid, const float *weights, size_t stride, const float *importance,
                           size_t first, size_t last, float *scales, float *zeros, size_t grid_stride);
    // Rounds sixteen rows of a block from `row` on. Returns RoundingFaults.
    uint32_t (*round_columns)(const ColumnBlock &block, size_t row);
    // Visits sixteen rows from `row` on.
    void (*visit_columns)(const VisitBlock &block, size_t row);
    // target += sum of amounts[i] * matrix[indices[i]], over `count` rows of the matrix with a stride.
    // size: a multiple of 16.
    void (*add_rows)(const uint32_t *indices, const float *amounts, size_t count, const float *matrix, size_t stride,
                     float *target, size_t size);
};

const RoundingKernels &rounding_kernels(v2e_isa isa);

namespace portable {
extern const RoundingKernels rounding;
}
namespace avx2 {
extern const RoundingKernels rounding;
}
namespace avx512 {
extern const RoundingKernels rounding;
}
namespace neon {
extern const RoundingKernels rounding;
}

} // namespace v2e
