// Sixteen 32-bit words in one AVX-512 register, and what multiplies them. Only for files that are compiled for AVX-512.
#pragma once

#include "cpu/simd/simd_avx512.hpp"

#include <cstdint>

namespace v2e::avx512 {

// A register tile: rows, and vectors of 16 outputs.
inline constexpr int TILE_ROWS = 12;
inline constexpr int TILE_VECTORS = 2;

struct Words {
    __m512i lanes;
};

inline Words load_words(const uint32_t *source) {
    return {_mm512_loadu_si512(source)};
}
inline Words splat_word(uint32_t word) {
    return {_mm512_set1_epi32(static_cast<int>(word))};
}
inline void store_words(uint32_t *target, Words words) {
    _mm512_storeu_si512(target, words.lanes);
}
inline Words whole_numbers(Vec value) {
    return {_mm512_maskz_cvtps_epi32(ALL, value.lanes)};
}
// low and, in the upper half of each word, high: 16 bits of both.
inline Words join_halves(Words low, Words high) {
    const __m512i mask = _mm512_set1_epi32(0xffff);
    return {_mm512_or_si512(_mm512_and_si512(low.lanes, mask), _mm512_slli_epi32(high.lanes, 16))};
}
// Round to nearest even; NaN and infinity stay what they are or become a NaN.
inline Words bf16_bits(Vec value) {
    const __m512i bits = _mm512_castps_si512(value.lanes);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return {_mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16)};
}

// Bytes: those of a row without sign, those of a panel with it.
struct ByteRows {
    using Element = uint8_t;
    using Sum = Words;
    static constexpr size_t PER_WORD = 4;
    static constexpr size_t STORED = 4;
    static constexpr bool INTEGER = true;
    static constexpr bool CONVERTS = false;
    static constexpr int32_t OFFSET = 0;        // what is taken away from an element before it is stored
    static constexpr float MOST_SHARE = 255.0f; // a probability of 1

    static Sum none() { return {_mm512_setzero_si512()}; }
    static Sum dot(Sum sum, Words row, Words panel) {
#if defined(__GNUC__)
        // GCC 12 surrounds the intrinsic with two register moves.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.lanes) : "v"(row.lanes), "v"(panel.lanes));
        return sum;
#else
        return {_mm512_dpbusd_epi32(sum.lanes, row.lanes, panel.lanes)};
#endif
    }
    static Vec to_float(Sum sum, Words sums, int32_t zero) {
        const __m512i share = _mm512_mullo_epi32(sums.lanes, _mm512_set1_epi32(zero));
        return {_mm512_maskz_cvtepi32_ps(ALL, _mm512_sub_epi32(sum.lanes, share))};
    }
    static Vec to_float(Sum sum) { return {_mm512_maskz_cvtepi32_ps(ALL, sum.lanes)}; }
    // Whole numbers from 0 to 255.
    static void store_row(Element *target, Vec value) {
        const __m128i bytes = _mm512_maskz_cvtepi32_epi8(ALL, whole_numbers(value).lanes);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(target), bytes);
    }
    static void store_share(Element *target, Vec value) { store_row(target, value); }
    // Whole numbers from -127 to 127.
    static void store_panel(Element *target, Vec value) { store(reinterpret_cast<int8_t *>(target), value); }
    static Words join(const Vec (&values)[PER_WORD]) {
        const __m512i mask = _mm512_set1_epi32(0xff);
        Words bytes[PER_WORD];
        for (size_t i = 0; i < PER_WORD; ++i)
            bytes[i] = {_mm512_and_si512(whole_numbers(values[i]).lanes, mask)};
        const Words even = {_mm512_or_si512(bytes[0].lanes, _mm512_slli_epi32(bytes[1].lanes, 8))};
        const Words odd = {_mm512_or_si512(bytes[2].lanes, _mm512_slli_epi32(bytes[3].lanes, 8))};
        return join_halves(even, odd);
    }
};

// Pairs of bf16, multiplied by AVX512-BF16: only where the machine has it.
struct Bf16Rows {
    using Element = uint16_t;
    using Sum = Vec;
    static constexpr size_t PER_WORD = 2;
    static constexpr size_t STORED = 2;
    static constexpr bool INTEGER = false;
    static constexpr bool CONVERTS = false;

    static Sum none() { return splat(0.0f); }
    static Sum dot(Sum sum, Words row, Words panel) {
#if defined(__GNUC__)
        // The instruction alone, so that nothing else of this file is compiled for machines that have it.
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.lanes) : "v"(row.lanes), "v"(panel.lanes));
        return sum;
#else
        return {_mm512_dpbf16_ps(sum.lanes, (__m512bh)row.lanes, (__m512bh)panel.lanes)};
#endif
    }
    static void store_row(Element *target, Vec value) {
        const __m256i halves = _mm512_maskz_cvtepi32_epi16(ALL, bf16_bits(value).lanes);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(target), halves);
    }
    static void store_panel(Element *target, Vec value) { store_row(target, value); }
    static Words join(const Vec (&values)[PER_WORD]) { return join_halves(bf16_bits(values[0]), bf16_bits(values[1])); }
};

inline Vec as_floats(Words words) {
    return {_mm512_castsi512_ps(words.lanes)};
}
inline Words as_words(Vec value) {
    return {_mm512_castps_si512(value.lanes)};
}
inline Words upper_halves(Words words) {
    return {_mm512_and_si512(words.lanes, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))};
}
inline Words shifted_up(Words words) {
    return {_mm512_slli_epi32(words.lanes, 16)};
}

} // namespace v2e::avx512

#include "cpu/simd/words_common.hpp"
