// Sixteen 32-bit words in two AVX2 registers, and what multiplies them. Only for files that are compiled for AVX2.
#pragma once

#include "cpu/simd/simd_avx2.hpp"

#include <cstdint>

namespace v2e::avx2 {

// A register tile: rows, and vectors of 16 outputs.
inline constexpr int TILE_ROWS = 6;
inline constexpr int TILE_VECTORS = 1;

struct Words {
    __m256i low, high;
};

inline Words load_words(const uint32_t *source) {
    const auto *halves = reinterpret_cast<const __m256i *>(source);
    return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline Words splat_word(uint32_t word) {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(word));
    return {all, all};
}
inline void store_words(uint32_t *target, Words words) {
    auto *halves = reinterpret_cast<__m256i *>(target);
    _mm256_storeu_si256(halves, words.low);
    _mm256_storeu_si256(halves + 1, words.high);
}
inline Words whole_numbers(Vec value) {
    return {_mm256_cvtps_epi32(value.low), _mm256_cvtps_epi32(value.high)};
}
inline Vec as_floats(Words words) {
    return {_mm256_castsi256_ps(words.low), _mm256_castsi256_ps(words.high)};
}
inline Words as_words(Vec value) {
    return {_mm256_castps_si256(value.low), _mm256_castps_si256(value.high)};
}
inline Words upper_halves(Words words) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_and_si256(words.low, mask), _mm256_and_si256(words.high, mask)};
}
inline Words shifted_up(Words words) {
    return {_mm256_slli_epi32(words.low, 16), _mm256_slli_epi32(words.high, 16)};
}

// Bytes, widened to pairs of 16 bits: the product of unsigned and signed bytes that AVX2 has adds two of them in 16
// bits, where 2 * 255 * 127 does not fit.
struct ByteRows {
    using Element = int16_t;
    using Sum = Words;
    static constexpr size_t PER_WORD = 2;
    static constexpr size_t STORED = 4;
    static constexpr bool INTEGER = true;
    static constexpr bool CONVERTS = true;
    static constexpr int32_t OFFSET = 0;        // what is taken away from an element before it is stored
    static constexpr float MOST_SHARE = 255.0f; // a probability of 1

    static Sum none() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    // GCC would hold the products of all rows at once, and the sums in memory.
    static void add(__m256i &sum, __m256i products) {
#if defined(__GNUC__)
        __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
#else
        sum = _mm256_add_epi32(sum, products);
#endif
    }
    static Sum dot(Sum sum, Words row, Words panel) {
        add(sum.low, _mm256_madd_epi16(row.low, panel.low));
        add(sum.high, _mm256_madd_epi16(row.high, panel.high));
        return sum;
    }
    static Vec to_float(Sum sum, Words sums, int32_t zero) {
        const __m256i factor = _mm256_set1_epi32(zero);
        return to_float({_mm256_sub_epi32(sum.low, _mm256_mullo_epi32(sums.low, factor)),
                         _mm256_sub_epi32(sum.high, _mm256_mullo_epi32(sums.high, factor))});
    }
    static Vec to_float(Sum sum) { return {_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)}; }
    // Whole numbers from -127 to 255.
    static void store_row(Element *target, Vec value) {
        const Words whole = whole_numbers(value);
        const __m256i mixed = _mm256_packs_epi32(whole.low, whole.high); // goes by halves of the register
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(target), _mm256_permute4x64_epi64(mixed, 0xd8));
    }
    static void store_share(Element *target, Vec value) { store_row(target, value); }
    static void store_panel(Element *target, Vec value) { store_row(target, value); }
    static Words join(const Vec (&values)[PER_WORD]) {
        const Words first = whole_numbers(values[0]), second = shifted_up(whole_numbers(values[1]));
        const __m256i mask = _mm256_set1_epi32(0xffff);
        return {_mm256_or_si256(_mm256_and_si256(first.low, mask), second.low),
                _mm256_or_si256(_mm256_and_si256(first.high, mask), second.high)};
    }
    // (groups, 32) words of four bytes to (2 * groups, 32) words of two 16-bit values.
    static void convert(const uint32_t *source, size_t groups, uint32_t *target) {
        for (size_t group = 0; group < groups; ++group)
            for (size_t lane = 0; lane < 32; lane += 8) {
                const auto *quads = reinterpret_cast<const __m256i *>(source + group * 32 + lane);
                const __m256i bytes = _mm256_loadu_si256(quads);
                // Bytes 0 and 1 of each word to 16 bits, then bytes 2 and 3: the sign comes with a shift.
                const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); // bytes 0 and 2
                const __m256i odd = _mm256_srai_epi16(bytes, 8);                        // bytes 1 and 3
                const __m256i first = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
                const __m256i second = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
                auto *pairs = reinterpret_cast<__m256i *>(target + group * 64 + lane);
                _mm256_storeu_si256(pairs, first);
                _mm256_storeu_si256(pairs + 4, second);
            }
    }
};

} // namespace v2e::avx2

#include "cpu/simd/words_common.hpp"
