// The largest logit of each row, and whether all of them are numbers.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::choose {

constexpr int THREADS = 256;

// Integers in the order of the floats; both zeros are one.
__device__ inline uint32_t ordered_bits(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// grid (parts, rows), 256 threads. Of equal logits the lowest token wins, as on the CPU.
V2E_KERNEL(v2e_choose_largest, ChooseArguments) {
    __shared__ unsigned long long shared[THREADS];
    const float *logits = arguments.logits + static_cast<int64_t>(blockIdx.y) * arguments.vocabulary;
    unsigned long long best = 0;
    bool finite = true;
    for (int token = static_cast<int>(blockIdx.x * THREADS + threadIdx.x); token < arguments.vocabulary;
         token += static_cast<int>(gridDim.x) * THREADS) {
        finite = finite && is_finite(logits[token]);
        const unsigned long long mine =
            static_cast<unsigned long long>(ordered_bits(logits[token])) << 32 | ~static_cast<uint32_t>(token);
        best = mine > best ? mine : best;
    }
    note_failure(arguments.status, arguments.stage, finite);
    shared[threadIdx.x] = best;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half && shared[threadIdx.x + half] > shared[threadIdx.x])
            shared[threadIdx.x] = shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        atomicMax(reinterpret_cast<unsigned long long *>(arguments.best + blockIdx.y), shared[0]);
}

} // namespace v2e::cuda::choose
