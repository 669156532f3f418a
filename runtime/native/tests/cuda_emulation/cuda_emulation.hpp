// Runs kernels on the CPU: every thread of a block is a fiber, which goes on until it waits for others. What the
// kernels use of CUDA is here with the meaning that the CUDA C++ Programming Guide and the PTX ISA give it; what they
// would get wrong on a GPU stops the program: barriers that not all threads reach, lanes that do different things
// together, addresses that are not aligned, indices outside of an array.
#pragma once

#include "base/half.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static // blocks run one after the other
#define __grid_constant__
#define __launch_bounds__(threads)

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

namespace emulation {

struct Index {
    unsigned x, y, z;
};

// They belong to the thread that runs now.
extern Index thread_index, block_index, block_size, grid_size;

using Call = void (*)(const void *arguments);

struct Kernel {
    const char *name;
    size_t argument_bytes;
    Call call;
};

bool add_kernel(const char *name, size_t argument_bytes, Call call);
const Kernel *find_kernel(const char *name); // null: there is none
void launch(const Kernel &kernel, Index grid, Index block, const void *arguments);
[[noreturn]] void stop(const char *reason);

void wait_for_block();
void wait_for_warp(const char *what); // `what` must be the same for all lanes

// Gives every lane's value to the whole warp; returns those of all lanes.
const uint64_t *exchange(uint64_t value, const char *what);
// See multiply_16x8x16. Returns the products (16, 8) of the whole warp.
const float (*multiply(const uint32_t (&a)[4], const uint32_t (&b)[2]))[8];
float half_to_float(uint16_t bits);

// cp.async: sixteen bytes that arrive no sooner than they are waited for.
void copy_later(void *target, const void *source);
void commit_copies();
void wait_for_copies(size_t groups_left);

} // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

#define V2E_KERNEL(name, Arguments)                                                                                    \
    extern "C" void name(const Arguments arguments);                                                                   \
    [[maybe_unused]] static const bool name##_added = emulation::add_kernel(                                           \
        #name, sizeof(Arguments), [](const void *given) { name(*static_cast<const Arguments *>(given)); });            \
    extern "C" void name(const Arguments arguments)

inline void __syncthreads() {
    emulation::wait_for_block();
}
inline void __syncwarp() {
    emulation::wait_for_warp("syncwarp");
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t *all = emulation::exchange(bits, "shuffle");
    std::memcpy(&value, &all[threadIdx.x % 32 ^ static_cast<unsigned>(mask)], sizeof value);
    return value;
}

inline int atomicMin(int *address, int value) {
    const int before = *address;
    *address = std::min(before, value);
    return before;
}
inline unsigned long long atomicMax(unsigned long long *address, unsigned long long value) {
    const unsigned long long before = *address;
    *address = std::max(before, value);
    return before;
}

inline int atomicAdd(int *address, int value) {
    const int before = *address;
    *address += value;
    return before;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i)
        sum += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return sum;
}

inline float __uint_as_float(uint32_t bits) {
    return v2e::float_from_bits(bits);
}
inline uint32_t __float_as_uint(float value) {
    return v2e::bits_from_float(value);
}
inline int __float2int_rn(float value) {
    return static_cast<int>(std::nearbyint(value));
}

struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
inline __half __ushort_as_half(uint16_t bits) {
    return {bits};
}
inline uint16_t __half_as_ushort(__half value) {
    return value.bits;
}
inline float __half2float(__half value) {
    return emulation::half_to_float(value.bits);
}
inline __half __float2half_rn(float value) {
    return {v2e::half_from_float(value)};
}
inline __half2 __half2half2(__half value) {
    return {value, value};
}
// Sums, differences and products of two halves fit a float so well that rounding twice is rounding once.
inline __half2 __hsub2(__half2 a, __half2 b) {
    return {__float2half_rn(__half2float(a.x) - __half2float(b.x)),
            __float2half_rn(__half2float(a.y) - __half2float(b.y))};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
    return {__float2half_rn(__half2float(a.x) * __half2float(b.x)),
            __float2half_rn(__half2float(a.y) * __half2float(b.y))};
}
inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}

inline void emulate_16x8x16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const float (*product)[8] = emulation::multiply(a, b);
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (unsigned i = 0; i < 4; ++i)
        sum[i] += product[g + i / 2 * 8][2 * t + i % 2];
}

inline void emulate_load_transposed(uint32_t (&values)[4], const void *row) {
    const uint64_t *rows = emulation::exchange(reinterpret_cast<uintptr_t>(row), "load transposed");
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (unsigned m = 0; m < 4; ++m) {
        const auto *first = reinterpret_cast<const uint16_t *>(rows[8 * m + 2 * t]);
        const auto *second = reinterpret_cast<const uint16_t *>(rows[8 * m + 2 * t + 1]);
        values[m] = first[g] | static_cast<uint32_t>(second[g]) << 16;
    }
}

using std::max;
using std::memcpy;
using std::min;
