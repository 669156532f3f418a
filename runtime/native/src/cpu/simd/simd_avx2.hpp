// Sixteen floats in two AVX2 registers. Only for files that are compiled for AVX2, FMA and F16C.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#define V2E_SIMD avx2
#define V2E_REGISTER_ROWS 6

namespace v2e::avx2 {

// A matrix product keeps this many rows and vectors of columns in registers.
inline constexpr int REGISTER_ROWS = V2E_REGISTER_ROWS;
inline constexpr int REGISTER_VECTORS = 1;
// Up to this many rows read small values as they are stored; for more, converting them once pays.
inline constexpr int DIRECT_ROWS = 2 * REGISTER_ROWS;

struct Vec {
    __m256 low, high;
};

inline Vec splat(float value) {
    const __m256 all = _mm256_set1_ps(value);
    return {all, all};
}
inline Vec load(const float *source) {
    return {_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
inline Vec load(const uint16_t *half) {
    const auto *halves = reinterpret_cast<const __m128i *>(half);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline Vec load(const int8_t *source) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(source));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void store(float *target, Vec value) {
    _mm256_storeu_ps(target, value.low);
    _mm256_storeu_ps(target + 8, value.high);
}
inline void store(uint16_t *half, Vec value) {
    auto *halves = reinterpret_cast<__m128i *>(half);
    _mm_storeu_si128(halves, _mm256_cvtps_ph(value.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(value.high, _MM_FROUND_TO_NEAREST_INT));
}
// Whole numbers of at most 127 in magnitude; of anything else, anything.
inline void store(int8_t *target, Vec value) {
    const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(value.low), _mm256_cvtps_epi32(value.high));
    const __m256i words = _mm256_permute4x64_epi64(mixed, 0xd8); // packing goes by halves of the register
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(target), bytes);
}

inline Vec operator+(Vec a, Vec b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec operator/(Vec a, Vec b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

// A NaN in `value` stays a NaN; one in `bound` does not count.
inline Vec at_least(Vec value, Vec bound) {
    return {_mm256_max_ps(bound.low, value.low), _mm256_max_ps(bound.high, value.high)};
}
inline Vec at_most(Vec value, Vec bound) {
    return {_mm256_min_ps(bound.low, value.low), _mm256_min_ps(bound.high, value.high)};
}

inline Vec nearest(Vec value) {
    constexpr int MODE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(value.low, MODE), _mm256_round_ps(value.high, MODE)};
}

inline __m256 power_of_two(__m256 power) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

// value * 2^power, for whole powers in [-126, 127].
inline Vec scale_by_power(Vec value, Vec power) {
    return {_mm256_mul_ps(value.low, power_of_two(power.low)), _mm256_mul_ps(value.high, power_of_two(power.high))};
}

// 0 where `test` is less than `bound`, else value.
inline Vec zero_below(Vec value, Vec test, float bound) {
    const __m256 limit = _mm256_set1_ps(bound);
    return {_mm256_and_ps(value.low, _mm256_cmp_ps(test.low, limit, _CMP_NLT_UQ)),
            _mm256_and_ps(value.high, _mm256_cmp_ps(test.high, limit, _CMP_NLT_UQ))};
}

// The first `count` lanes of value (0 to 16), and `other` behind them.
inline Vec first_lanes(Vec value, int count, float other) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 keep_low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), index));
    const __m256 keep_high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), index));
    const __m256 fill = _mm256_set1_ps(other);
    return {_mm256_blendv_ps(fill, value.low, keep_low), _mm256_blendv_ps(fill, value.high, keep_high)};
}

// yes where a < b, else no.
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

// Whether every lane is 0.
inline bool is_zero(Vec value) {
    const __m256 zero = _mm256_setzero_ps();
    const __m256 other =
        _mm256_or_ps(_mm256_cmp_ps(value.low, zero, _CMP_NEQ_UQ), _mm256_cmp_ps(value.high, zero, _CMP_NEQ_UQ));
    return _mm256_movemask_ps(other) == 0;
}

} // namespace v2e::avx2

#include "cpu/simd/simd_common.hpp"
