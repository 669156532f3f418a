// The table of functions that each instruction set provides for matrix products.
#pragma once

#include "base/stop_flag.hpp"
#include "bundle/matrix.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

// How the input rows of a product are cut into tiles of at most `most` rows, all of them nearly equal.
struct RowTiles {
    RowTiles(size_t row_count, size_t most) : count(row_count), tiles((row_count + most - 1) / most) {}

    size_t first_row(size_t tile) const { return count * tile / tiles; }
    size_t rows(size_t tile) const { return first_row(tile + 1) - first_row(tile); }

    size_t count;
    size_t tiles;
};

// Input rows in integer planes, tile by tile. A tile of R rows from row f on lies at f * columns, (columns / 4, R, 4),
// its scales and sums at f * groups, (groups, R).
struct IntegerRows {
    const int8_t *high; // null when there is only the low plane
    const int8_t *low;
    const float *scales;
    const int32_t *sums; // sums of the integers of a group
    RowTiles tiles;
    size_t first_tile, last_tile;   // those that are multiplied
    const StopFlag *stop = nullptr; // looked at between blocks of columns; where it stops, the output means nothing
};

// Where one tile of input rows becomes integers, from some column on that begins a group.
struct IntegerTile {
    int8_t *high; // (columns / 4, rows, 4); null for int8 activations
    int8_t *low;
    float *scales; // (groups, rows)
    int32_t *sums;
    size_t rows;
};

// Where the products go: (rows, OUTPUT_STRIDE), started from the bias (panels * 64,) or from zero. A constant stride
// leaves registers for the sums.
constexpr size_t OUTPUT_STRIDE = 4 * PANEL;
constexpr size_t BLOCK_ROWS = 288; // rows of a task: with the results they fit into the second-level cache
// Columns of a panel that pass through the first-level cache together: 16 KiB of weights, which leave room in the 32
// KiB that most processors have. Before each such block, kernels look at the stop flag.
constexpr size_t INTEGER_BLOCK = 256;
constexpr size_t FLOAT_BLOCK = 128;
struct PanelOutput {
    float *values;
    const float *bias; // null: zero
};

// Some panels of an int4 or int8 matrix.
struct IntegerPanels {
    const uint8_t *weight;
    const uint16_t *scales; // (panels, groups, 64)
    const uint8_t *zeros;   // (panels, groups, 64) or null
    Precision precision;
    Code code;
    size_t columns;
    size_t group_size;
    size_t panels;
};

// One panel of an fp16 or fp32 matrix.
struct FloatPanel {
    const void *weight;
    Precision precision;
    size_t columns;
};

struct FloatRows {
    const float *values; // (count, columns)
    size_t stride;       // in floats
    size_t count;
    const StopFlag *stop = nullptr; // as in IntegerRows
};

struct LinearKernels {
    size_t tile_rows; // most input rows of a tile

    // (tile.rows, columns), whole groups, to integers.
    void (*quantize_tile)(const float *values, size_t stride, size_t columns, size_t group_size,
                          const IntegerTile &tile);
    void (*multiply_integer)(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output);
    void (*multiply_float)(const FloatPanel &panel, const FloatRows &rows, const PanelOutput &output);
};

// Null when this build has no such kernels.
const LinearKernels *linear_kernels_portable();
const LinearKernels *linear_kernels_avx2();
const LinearKernels *linear_kernels_avxvnni();
const LinearKernels *linear_kernels_avx512();
const LinearKernels *linear_kernels_neon();
const LinearKernels *linear_kernels(v2e_isa isa);

} // namespace v2e
