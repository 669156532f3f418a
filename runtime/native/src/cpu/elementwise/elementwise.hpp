// The decoder's row by row arithmetic: norms, rotation, activation, and the way into the KV cache.
#pragma once

#include "cpu/attention/attention.hpp"
#include "valley2.h"

#include <cstddef>

namespace v2e {

// Every size is a multiple of 16 unless it says otherwise.
struct ElementwiseKernels {
    float (*square_sum)(const float *values, size_t size);
    // output = values * factor * weight; false when a result is a NaN or an infinity
    bool (*scale)(const float *values, float factor, const float *weight, float *output, size_t size);
    // target += values
    void (*add)(float *target, const float *values, size_t size);
    // gate = silu(gate) * up; false when a result is a NaN or an infinity
    bool (*swiglu)(float *gate, const float *up, size_t size);
    // Rotary position embedding in rotate-half form of heads (count, head_size); cosine, sine (head_size / 2).
    // head_size is a multiple of 16.
    void (*rotate)(float *heads, size_t count, size_t head_size, const float *cosine, const float *sine);
    // Multiplies each of the heads (count, head_size) with an orthogonal matrix: Hadamard's, in blocks as large as the
    // largest power of two that divides head_size. Products of two heads stay what they were; one large channel
    // becomes many of middling size.
    void (*spread)(float *heads, size_t count, size_t head_size);
    // Puts a key into its lane of a block (head_size, 16); `column` is the lane's first channel. With int8 the step
    // goes to `step`, which is not touched otherwise.
    void (*store_key)(const float *key, size_t head_size, KvPrecision precision, std::byte *column, float *step);
    void (*store_value)(const float *value, size_t head_size, KvPrecision precision, std::byte *target, float *step);
    // Whether there is neither a NaN nor an infinity. Any size.
    bool (*is_finite)(const float *values, size_t size);
};

const ElementwiseKernels &elementwise_kernels(v2e_isa isa);

namespace portable {
extern const ElementwiseKernels elementwise;
}
namespace avx2 {
extern const ElementwiseKernels elementwise;
}
namespace avx512 {
extern const ElementwiseKernels elementwise;
}
namespace neon {
extern const ElementwiseKernels elementwise;
}

} // namespace v2e
