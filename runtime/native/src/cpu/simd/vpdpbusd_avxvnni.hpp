// The int8 dot product of AVX-VNNI. Only for files that are compiled for it.
#pragma once

#include <immintrin.h>

namespace v2e {
namespace {

// sums + 4 products of unsigned weights and signed activations in each lane.
inline __m256i vpdpbusd(__m256i sums, __m256i weights, __m256i activations) {
#if defined(__GNUC__)
    // GCC surrounds the intrinsic with register moves. Without the prefix assemblers take the encoding of AVX-512.
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(activations));
    return sums;
#else
    return _mm256_dpbusd_avx_epi32(sums, weights, activations);
#endif
}

} // namespace
} // namespace v2e
