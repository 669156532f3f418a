// What the device can do at most: copying memory, and multiplying with tensor cores.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::probes {

// Any grid of 256 threads; bytes is a multiple of 16.
V2E_KERNEL(v2e_probe_copy, ProbeArguments) {
    const auto *source = reinterpret_cast<const uint4 *>(arguments.source);
    auto *target = reinterpret_cast<uint4 *>(arguments.target);
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < arguments.bytes / 16;
         i += stride)
        target[i] = source[i];
}

// Each warp multiplies 16 x 8 x 16 eight times a step, in chains that do not wait for each other. Any grid of 256
// threads; the target has four bytes a thread.
V2E_KERNEL(v2e_probe_products, ProbeArguments) {
    const uint32_t one = 0x3c003c00u + threadIdx.x % 2; // about 1, and not known to the compiler
    const uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
    float sum[8][4] = {};
    for (int step = 0; step < arguments.steps; ++step) {
#pragma unroll
        for (int chain = 0; chain < 8; ++chain)
            multiply_16x8x16(sum[chain], a, b);
    }
    float all = 0.0f;
    for (int chain = 0; chain < 8; ++chain)
        all += sum[chain][0] + sum[chain][1] + sum[chain][2] + sum[chain][3];
    reinterpret_cast<float *>(arguments.target)[static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x] = all;
}

} // namespace v2e::cuda::probes
