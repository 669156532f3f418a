// Sixteen floats in one AVX-512 register. Only for files that are compiled for AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#define V2E_SIMD avx512
#define V2E_REGISTER_ROWS 7

namespace v2e::avx512 {

// A matrix product keeps this many rows and vectors of columns in registers.
inline constexpr int REGISTER_ROWS = V2E_REGISTER_ROWS;
inline constexpr int REGISTER_VECTORS = 4;
// Up to this many rows read small values as they are stored; for more, converting them once pays.
inline constexpr int DIRECT_ROWS = 2 * REGISTER_ROWS;

// The plain forms of some intrinsics read an undefined register in GCC 12's headers, and it warns of them.
inline constexpr __mmask16 ALL = 0xffff;

struct Vec {
    __m512 lanes;
};

inline Vec splat(float value) {
    return {_mm512_set1_ps(value)};
}
inline Vec load(const float *source) {
    return {_mm512_loadu_ps(source)};
}
inline Vec load(const uint16_t *half) {
    return {_mm512_maskz_cvtph_ps(ALL, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(half)))};
}
inline Vec load(const int8_t *source) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(source));
    return {_mm512_maskz_cvtepi32_ps(ALL, _mm512_maskz_cvtepi8_epi32(ALL, bytes))};
}
inline void store(float *target, Vec value) {
    _mm512_storeu_ps(target, value.lanes);
}
inline void store(uint16_t *half, Vec value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(half),
                        _mm512_maskz_cvtps_ph(ALL, value.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Whole numbers of at most 127 in magnitude; of anything else, anything.
inline void store(int8_t *target, Vec value) {
    const __m512i whole = _mm512_maskz_cvtps_epi32(ALL, value.lanes);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(target), _mm512_maskz_cvtepi32_epi8(ALL, whole));
}

inline Vec operator+(Vec a, Vec b) {
    return {_mm512_add_ps(a.lanes, b.lanes)};
}
inline Vec operator-(Vec a, Vec b) {
    return {_mm512_sub_ps(a.lanes, b.lanes)};
}
inline Vec operator*(Vec a, Vec b) {
    return {_mm512_mul_ps(a.lanes, b.lanes)};
}
inline Vec operator/(Vec a, Vec b) {
    return {_mm512_div_ps(a.lanes, b.lanes)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}

// A NaN in `value` stays a NaN; one in `bound` does not count.
inline Vec at_least(Vec value, Vec bound) {
    return {_mm512_maskz_max_ps(ALL, bound.lanes, value.lanes)};
}
inline Vec at_most(Vec value, Vec bound) {
    return {_mm512_maskz_min_ps(ALL, bound.lanes, value.lanes)};
}

inline Vec nearest(Vec value) {
    return {_mm512_maskz_roundscale_ps(ALL, value.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

// value * 2^power, for whole powers in [-126, 127].
inline Vec scale_by_power(Vec value, Vec power) {
    return {_mm512_maskz_scalef_ps(ALL, value.lanes, power.lanes)};
}

// 0 where `test` is less than `bound`, else value.
inline Vec zero_below(Vec value, Vec test, float bound) {
    const __mmask16 keep = _mm512_cmp_ps_mask(test.lanes, _mm512_set1_ps(bound), _CMP_NLT_UQ);
    return {_mm512_maskz_mov_ps(keep, value.lanes)};
}

// The first `count` lanes of value (0 to 16), and `other` behind them.
inline Vec first_lanes(Vec value, int count, float other) {
    const auto keep = static_cast<__mmask16>((1u << count) - 1u);
    return {_mm512_mask_mov_ps(_mm512_set1_ps(other), keep, value.lanes)};
}

// yes where a < b, else no.
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_mov_ps(no.lanes, _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_LT_OQ), yes.lanes)};
}

// Whether every lane is 0.
inline bool is_zero(Vec value) {
    return _mm512_cmp_ps_mask(value.lanes, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
}

} // namespace v2e::avx512

#include "cpu/simd/simd_common.hpp"
