// What the instruction sets with vectors of 256 bits have in common for matrix products. Only for files that are
// compiled for AVX2, FMA and F16C.
#pragma once

#include "cpu/linear/linear_impl.hpp"

#include <immintrin.h>

namespace v2e {
namespace {

struct Avx2Vectors {
    static constexpr size_t LANES = 8;
    static constexpr bool TABLES = true;
    static constexpr size_t STREAMED_TILES = 1;
    template <int R>
    static constexpr size_t vectors() {
        return R == 1 ? 8 : R == 2 ? 4 : 2;
    }

    using Int = __m256i;
    using Float = __m256;
    using Bytes = __m256i;

    static Int set_int(int32_t value) { return _mm256_set1_epi32(value); }
    static Int load_bytes(const uint8_t *bytes) {
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(bytes)));
    }
    static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static Int subtract_int(Int a, Int b) { return _mm256_sub_epi32(a, b); }
    template <bool WIDE>
    static Int multiply_byte(Int bytes, int32_t factor) {
        const Int factors = _mm256_set1_epi32(factor);
        return WIDE ? _mm256_mullo_epi32(bytes, factors) : _mm256_madd_epi16(bytes, factors);
    }
    static Int max_int(Int a, Int b) { return _mm256_max_epi32(a, b); }
    static Int shift_left_7(Int a) { return _mm256_slli_epi32(a, 7); }
    static Int shift_right_7(Int a) { return _mm256_srai_epi32(a, 7); }
    static int32_t reduce_max(Int a) {
        __m128i half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        return _mm_cvtsi128_si32(half);
    }
    static int32_t reduce_add(Int a) {
        __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        return _mm_cvtsi128_si32(half);
    }
    static void store_int8(int8_t *target, Int a) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(target), _mm_packs_epi16(words, words));
    }

    static Float load(const float *source) { return _mm256_loadu_ps(source); }
    static Float load_half(const uint16_t *source) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(source)));
    }
    static void store(float *target, Float a) { _mm256_storeu_ps(target, a); }
    static Float broadcast(float value) { return _mm256_set1_ps(value); }
    static Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
    static Int magnitude_bits(Float a) {
        return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff));
    }
    static Int round(Float a) { return _mm256_cvtps_epi32(a); }
    static void prefetch_far(const void *address) { _mm_prefetch(static_cast<const char *>(address), _MM_HINT_T1); }

    static Int load_weights(const uint8_t *source) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source));
    }
    static Int broadcast_quad(const int8_t *source) {
        int32_t quad;
        std::memcpy(&quad, source, sizeof quad);
        return _mm256_set1_epi32(quad);
    }

    template <Source S, bool SIGNED>
    static void split(const uint8_t *packed, Bytes &lower, Bytes &upper) {
        const Int bytes = load_weights(packed), mask = _mm256_set1_epi8(15);
        lower = _mm256_and_si256(bytes, mask);
        upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
        if constexpr (S == Source::nf4_packed) {
            const auto *table = reinterpret_cast<const __m128i *>(NF4_TABLE<SIGNED>.bytes);
            const Int levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(table));
            lower = _mm256_shuffle_epi8(levels, lower);
            upper = _mm256_shuffle_epi8(levels, upper);
        }
    }
};

} // namespace
} // namespace v2e
