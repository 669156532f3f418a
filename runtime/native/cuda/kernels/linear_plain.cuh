// Matrix products for many rows with weights in fp16 or fp32, in fp32 arithmetic: exact where a checkpoint is exported
// without rounding. output (count, rows) = input (count, columns) * matrix^T + bias.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::plain {

constexpr int DEPTH = 16; // columns that are in shared memory at a time; divides every matrix's

__device__ inline float widen(float value) {
    return value;
}
__device__ inline float widen(uint16_t value) {
    return half_value(value);
}

// A block makes PLAIN_ROWS rows of one panel, each thread 4 rows and 4 columns of it.
template <class Element>
__device__ void multiply_plain(const LinearArguments &arguments) {
    __shared__ float input[DEPTH][PLAIN_ROWS + 4]; // apart, so that a column's writes meet different banks
    __shared__ float weight[DEPTH][PANEL];
    const DeviceMatrix &matrix = arguments.matrix;
    const int first_row = blockIdx.y * PLAIN_ROWS;
    const auto *panel =
        reinterpret_cast<const Element *>(matrix.weight) + static_cast<int64_t>(blockIdx.x) * matrix.columns * PANEL;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int depth = 0; depth < matrix.columns; depth += DEPTH) {
        for (int index = threadIdx.x; index < PLAIN_ROWS * DEPTH; index += blockDim.x) {
            const int64_t source = min(first_row + index / DEPTH, arguments.count - 1);
            input[index % DEPTH][index / DEPTH] =
                arguments.input.floats[source * matrix.columns + depth + index % DEPTH];
        }
        for (int index = threadIdx.x; index < DEPTH * PANEL; index += blockDim.x)
            weight[index / PANEL][index % PANEL] = widen(panel[static_cast<int64_t>(depth) * PANEL + index]);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    sum[i][j] += input[k][row + i] * weight[k][column + j];
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const int to_row = first_row + row + i, to_column = blockIdx.x * PANEL + column + j;
            if (to_row >= arguments.count || to_column >= matrix.rows)
                continue;
            const float value = sum[i][j] + (matrix.bias == nullptr ? 0.0f : matrix.bias[to_column]);
            float *target = arguments.output + static_cast<int64_t>(to_row) * arguments.output_stride + to_column;
            *target = arguments.add ? *target + value : value;
        }
}

// grid (panels, count / PLAIN_ROWS rounded up), 256 threads; the input is in floats.
V2E_KERNEL(v2e_plain_fp16, LinearArguments) {
    multiply_plain<uint16_t>(arguments);
}
V2E_KERNEL(v2e_plain_fp32, LinearArguments) {
    multiply_plain<float>(arguments);
}

} // namespace v2e::cuda::plain
