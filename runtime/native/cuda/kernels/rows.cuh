// What happens to each row between two matrix products: norms, activations, and the form that the next product reads.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::rows {

constexpr float INT16_LIMIT = 127.0f * 128.0f;
constexpr float SMALLEST_MAGNITUDE = 1e-30f;

// One group of columns as Planes, by one warp: each lane has group_size / 32 neighbouring columns. The same rounding as
// quantize_row in src/cpu/linear/linear_impl.hpp.
template <class Value>
__device__ void write_planes(const Value &value, const PackArguments &arguments, int row, int group) {
    const int lane = threadIdx.x % 32, width = arguments.group_size / 32;
    const int first = group * arguments.group_size + lane * width;
    float values[4];
    float largest = 0.0f;
    for (int i = 0; i < width; ++i) {
        values[i] = value(first + i);
        largest = Largest::join(largest, fabsf(values[i]));
    }
    largest = join_warp<Largest>(largest);
    const bool finite = is_finite(largest);
    note_failure(arguments.status, arguments.stage, finite);
    const bool some = finite && largest >= SMALLEST_MAGNITUDE;
    const float reciprocal = some ? INT16_LIMIT / largest : 0.0f;
    const int blocks = arguments.columns / 8;
    const Planes &planes = arguments.output.planes;
    int sum = 0;
    for (int i = 0; i < width; ++i) {
        const int whole = some ? __float2int_rn(values[i] * reciprocal) : 0;
        const int high = (whole + 64) >> 7;
        uint8_t *block = planes.values + (static_cast<int64_t>(row) * blocks + (first + i) / 8) * 16;
        block[(first + i) % 8] = static_cast<uint8_t>(high);
        block[8 + (first + i) % 8] = static_cast<uint8_t>(whole - 128 * high);
        sum += whole;
    }
    for (int distance = 1; distance * width < 8; distance *= 2)
        sum += __shfl_xor_sync(WHOLE_WARP, sum, distance);
    if (first % 8 == 0)
        planes.sums[static_cast<int64_t>(row) * blocks + first / 8] = sum;
    if (lane == 0)
        planes.scales[static_cast<int64_t>(row) * (arguments.columns / arguments.group_size) + group] =
            some ? largest / INT16_LIMIT : 0.0f;
}

// 2^(exponent of the magnitude - 14), and 1 for nothing at all.
__device__ inline float row_factor(float magnitude) {
    if (magnitude < SMALLEST_MAGNITUDE)
        return 1.0f;
    const int exponent = static_cast<int>(__float_as_uint(magnitude) >> 23 & 255u);
    return __uint_as_float(static_cast<uint32_t>(exponent - 14) << 23);
}

template <class Value>
__device__ void write_halves(const Value &value, const PackArguments &arguments, int row, float *shared) {
    const int columns = arguments.columns;
    float largest = 0.0f;
    for (int column = threadIdx.x; column < columns; column += blockDim.x)
        largest = Largest::join(largest, fabsf(value(column)));
    largest = join_block<Largest>(largest, shared);
    const bool finite = is_finite(largest);
    note_failure(arguments.status, arguments.stage, finite);
    const float factor = finite ? row_factor(largest) : 1.0f;
    uint16_t *target = arguments.output.halves.values + static_cast<int64_t>(row) * columns;
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const int place = column & 7; // 0 2 4 6 1 3 5 7
        target[column - place + (place >> 1) + (place & 1) * 4] = half_bits(value(column) / factor);
    }
    if (threadIdx.x == 0)
        arguments.output.halves.factors[row] = factor;
}

// The row of this block, or its groups of this block, in the form that is asked for.
template <class Value>
__device__ void write_row(const Value &value, const PackArguments &arguments, float *shared) {
    const int row = blockIdx.x;
    if (arguments.form == FORM_PLANES) {
        const int groups = arguments.columns / arguments.group_size;
        const int warps = gridDim.y * blockDim.x / 32;
        for (int group = (blockIdx.y * blockDim.x + threadIdx.x) / 32; group < groups; group += warps)
            write_planes(value, arguments, row, group);
    } else if (arguments.form == FORM_HALVES) {
        write_halves(value, arguments, row, shared);
    } else {
        bool finite = true;
        for (int column = threadIdx.x; column < arguments.columns; column += blockDim.x) {
            const float result = value(column);
            finite = finite && is_finite(result);
            arguments.output.floats[static_cast<int64_t>(row) * arguments.columns + column] = result;
        }
        note_failure(arguments.status, arguments.stage, finite);
    }
}

// All three: grid (rows, parts) of 256 threads. Planes may be written by several parts, other forms by one alone.

// RMSNorm after Zhang and Sennrich (2019), "Root Mean Square Layer Normalization".
V2E_KERNEL(v2e_norm_rows, PackArguments) {
    __shared__ float shared[8];
    const float *input = arguments.input + static_cast<int64_t>(blockIdx.x) * arguments.columns;
    float sum = 0.0f;
    for (int column = threadIdx.x; column < arguments.columns; column += blockDim.x)
        sum += input[column] * input[column];
    sum = join_block<Sum>(sum, shared);
    note_failure(arguments.status, arguments.input_stage, is_finite(sum));
    const double mean = static_cast<double>(sum) / static_cast<double>(arguments.columns);
    const auto factor = static_cast<float>(1.0 / sqrt(mean + arguments.epsilon));
    const float *weight = arguments.weight;
    write_row([=](int column) { return input[column] * factor * weight[column]; }, arguments, shared);
}

// silu(gate) * up, after Shazeer (2020), "GLU variants improve transformer".
V2E_KERNEL(v2e_swiglu_rows, PackArguments) {
    __shared__ float shared[8];
    const float *gate = arguments.input + static_cast<int64_t>(blockIdx.x) * 2 * arguments.columns;
    const float *up = gate + arguments.columns;
    write_row([=](int column) { return gate[column] / (1.0f + expf(-gate[column])) * up[column]; }, arguments, shared);
}

V2E_KERNEL(v2e_copy_rows, PackArguments) {
    __shared__ float shared[8];
    const float *input = arguments.input + static_cast<int64_t>(blockIdx.x) * arguments.columns;
    write_row([=](int column) { return input[column]; }, arguments, shared);
}

} // namespace v2e::cuda::rows
