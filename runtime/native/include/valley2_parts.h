/* valley2_parts.h: single parts of the core, for the tools and the tests of this project.
 *
 * Other programs use valley2.h. What stands here may change or go with any release.
 *
 * The rules of valley2.h hold, but for two: a pointer may be to the middle of a larger array, and then a stride says
 * how many values lie from one row to the next. All calls of one rounder belong to one thread at a time.
 */
#ifndef VALLEY2_PARTS_H
#define VALLEY2_PARTS_H

#include "valley2.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- rounding
 * What GPTQ (arXiv 2210.17323) and the descent behind it do to the rows of a matrix between two matrix products. Rows
 * are given in multiples of 16 and depend neither on one another nor on the number of threads. With every instruction
 * set that multiplies and adds with one rounding the bits are the same; V2E_ISA_PORTABLE rounds twice. */

/* The levels of a group: weight = (value - zero) * scale, with a scale that fp16 has. */
typedef struct v2e_grid {
    size_t struct_size;
    uint32_t bits;       /* 4 or 8 */
    uint32_t group_size; /* columns that share a scale: 32, 64 or 128 */
    uint32_t has_zeros;  /* 0: the zero point is 8 or 128; 1: each group has its own, with 4 bits alone */
    uint32_t search;     /* 0: a scale covers the range of its group; 1: it is the best of some, for the given costs */
} v2e_grid;

/* What can be wrong with weights; bits of a number. */
typedef enum v2e_rounding_fault { V2E_ROUNDING_NOT_FINITE = 1, V2E_ROUNDING_SCALE_TOO_LARGE = 2 } v2e_rounding_fault;

typedef struct v2e_rounder v2e_rounder;

/* threads: 0: as many as the process may run on. isa: v2e_isa. */
V2E_API v2e_status v2e_rounder_open(uint32_t threads, uint32_t isa, v2e_rounder **rounder);
/* NULL is allowed. */
V2E_API void v2e_rounder_close(v2e_rounder *rounder);

/* Chooses the scales and zero points of all groups. weights: (rows, columns) with a stride. importance: (columns,),
 * what a squared error costs. scales, zeros: (columns / group_size, rows). faults: of all weights together. */
V2E_API v2e_status v2e_fit_groups(v2e_rounder *rounder, const v2e_grid *grid, const float *weights, uint64_t stride,
                                  const float *importance, uint64_t rows, uint64_t columns, float *scales, float *zeros,
                                  uint32_t *faults);

typedef struct v2e_column_block {
    size_t struct_size;
    uint64_t rows;
    uint64_t count;          /* positions, at most 128; whole groups with fits_groups */
    uint64_t all_columns;    /* of the matrix */
    uint32_t fits_groups;    /* 1: scales are chosen when the last position of a group is reached */
    const uint32_t *columns; /* (count,): the column of each position */
    const float *triangle;   /* (count, count) with a stride: L of H = L D L^T, its diagonal 1 */
    uint64_t triangle_stride;
    const float *importance; /* (count,): what a squared error costs; fits_groups alone reads it */
    float *targets;          /* (count, rows): weights minus the changes of later positions times their factors;
                                becomes value minus target */
    float *weights;          /* (count, rows): the exact weights; becomes value minus weight */
    float *scales;           /* (groups, rows) */
    float *zeros;            /* (groups, rows) */
    uint8_t *values;         /* (rows, all_columns) */
} v2e_column_block;

/* Rounds the positions of a block from the last one to the first; each changes the targets of those before it. */
V2E_API v2e_status v2e_round_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_column_block *block,
                                     uint32_t *faults);

typedef struct v2e_visit_block {
    size_t struct_size;
    uint64_t rows;
    uint64_t count;          /* columns, at most 1024; whole groups */
    uint32_t rounds;         /* over the columns of each 128 of them */
    uint32_t fits_scales;    /* 1: the scales are fitted to the integers as well */
    uint32_t updates_slopes; /* 1: changes are applied to the slopes of these columns; needed above 128 columns */
    const float *hessian;    /* (count, count) with a stride */
    uint64_t hessian_stride;
    const float *added; /* (count,): what is added to its diagonal */
    float *slopes;      /* (rows, count) with a stride: change of the weights times all of the damped Hessian */
    uint64_t slope_stride;
    uint8_t *values; /* (rows, count) with a stride */
    uint64_t value_stride;
    float *scales;      /* (count / group_size, rows) */
    const float *zeros; /* (count / group_size, rows) */
    float *changes;     /* (rows, count): what every weight has changed by */
    double *gains;      /* (rows,): what the error of each row fell by is added */
    uint8_t *moved;     /* (rows,): becomes 1 where a value has changed */
} v2e_visit_block;

/* Gives each integer of the columns its best level while all others stay, one after the other (arXiv 2309.01885). */
V2E_API v2e_status v2e_visit_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_visit_block *block);

/* target += changes * matrix, where most of the changes are 0. changes: (rows, inner), inner at most 1024. matrix:
 * (inner, columns) with a stride. target: (rows, columns) with a stride. columns: a multiple of 16; any rows. */
V2E_API v2e_status v2e_add_sparse_product(v2e_rounder *rounder, const float *changes, uint64_t rows, uint64_t inner,
                                          const float *matrix, uint64_t matrix_stride, uint64_t columns, float *target,
                                          uint64_t target_stride);

#ifdef __cplusplus
}
#endif

#endif /* VALLEY2_PARTS_H */
