// The table of functions that each instruction set provides for matrix products.
#pragma once

#include "matrix.hpp"

#include <cstddef>
#include <cstdint>

namespace v2e {

// Input rows in integer planes; see LinearScratch. Pointers to the first row.
struct IntegerRows {
    const int8_t *high; // (count, columns); null when there is only the low plane
    const int8_t *low;
    const float *scales; // (count, groups)
    const int32_t *sums; // (count, groups)
    size_t count;
};

// Where the products go: (count, panels * 64) with a stride in floats, started from the bias (panels * 64,) or from
// zero.
struct PanelOutput {
    float *values;
    size_t stride;
    const float *bias; // null: zero
};

// Neighbouring panels of an int4 or int8 matrix.
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
};

struct LinearKernels {
    // One row to integers: high is null for int8 activations. scales and sums: (groups,).
    void (*quantize_row)(const float *row, size_t columns, size_t group_size, int8_t *high, int8_t *low, float *scales,
                         int32_t *sums);
    void (*multiply_integer)(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output);
    void (*multiply_float)(const FloatPanel &panel, const FloatRows &rows, const PanelOutput &output);
};

// Null when this build has no such kernels.
const LinearKernels *linear_kernels_portable();
const LinearKernels *linear_kernels_avx2();
const LinearKernels *linear_kernels_avx512();
const LinearKernels *linear_kernels_neon();

} // namespace v2e
