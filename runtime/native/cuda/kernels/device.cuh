// What the kernels need of a GPU beyond plain C++. nvcc gives them the real thing; the tests' build includes its
// emulation before everything else. Instructions are described in the PTX ISA, chapter 9, "Instruction Set".
#pragma once

#include "cuda/kernels/arguments.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
// A kernel of at most 256 threads; its name is what the host asks the module for.
#define V2E_KERNEL(name, Arguments)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Arguments arguments)
#endif

namespace v2e::cuda {

constexpr unsigned WHOLE_WARP = 0xffffffffu;

__device__ inline float half_value(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

__device__ inline uint16_t half_bits(float value) {
    return __half_as_ushort(__float2half_rn(value));
}

__device__ inline __half2 half2_of(uint32_t bits) {
    __half2 value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

__device__ inline uint32_t bits_of(__half2 value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

__device__ inline bool is_finite(float value) {
    return value * 0.0f == 0.0f;
}

// The first stage of a pass that failed is the lowest one.
__device__ inline void note_failure(int *status, int stage, bool finite) {
    if (!finite)
        atomicMin(status, stage);
}

// Sixteen bytes from global to shared memory. From compute capability 8.0 on they do not pass the registers, and
// arrive when wait_for_copies says so.
__device__ inline void copy_16(void *shared, const void *global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(global));
#elif !defined(__CUDACC__)
    emulation::copy_later(shared, global);
#else
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}

// Ends a group of copies.
__device__ inline void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n" ::);
#elif !defined(__CUDACC__)
    emulation::commit_copies();
#endif
}

// Waits until no more than `GROUPS` of the newest groups are under way.
template <int GROUPS>
__device__ inline void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS));
#elif !defined(__CUDACC__)
    emulation::wait_for_copies(GROUPS);
#endif
}

// sum (16, 8) += a (16, 16) * b (16, 8) of a warp, fp16 with sums in fp32. Of lane 4g + t, a holds rows g, g + 8, g,
// g + 8 and columns 2t, 2t, 2t + 8, 2t + 8 with their neighbours, b rows 2t and 2t + 8 with theirs of column g, sum
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1): PTX ISA, "Matrix Fragments for mma.m16n8k16". Turing does it in
// two halves.
__device__ inline void multiply_16x8x16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#elif !defined(__CUDACC__)
    emulate_16x8x16(sum, a, b);
#endif
}

// Four matrices of eight rows of eight halves, transposed, out of shared memory: lane 8m + r gives the address of row r
// of matrix m; of lane 4g + t, values[m] are the halves of rows 2t and 2t + 1 in column g. PTX ISA, "ldmatrix".
__device__ inline void load_transposed(uint32_t (&values)[4], const void *row) {
#if defined(__CUDA_ARCH__)
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                 : "r"(address)
                 : "memory");
#elif !defined(__CUDACC__)
    emulate_load_transposed(values, row);
#endif
}

struct Sum {
    __device__ static float join(float a, float b) { return a + b; }
};
// A NaN stays: nothing is larger.
struct Largest {
    __device__ static float join(float a, float b) { return b > a || b != b ? b : a; }
};

// The values of a warp's lanes joined; every lane has the result.
template <class Join>
__device__ inline float join_warp(float value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = Join::join(value, __shfl_xor_sync(WHOLE_WARP, value, distance));
    return value;
}

// The values of a block's threads joined, always in the same order; every thread has the result. `shared` holds a float
// for each warp and must not be in use.
template <class Join>
__device__ inline float join_block(float value, float *shared) {
    value = join_warp<Join>(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = value;
    __syncthreads();
    float all = shared[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp)
        all = Join::join(all, shared[warp]);
    return all;
}

} // namespace v2e::cuda
