// Sixteen 32-bit words in four NEON registers, and what multiplies them. Only for files that are compiled for AArch64
// with the dot product.
#pragma once

#include "cpu/simd/simd_neon.hpp"

#include <cstdint>

namespace v2e::neon {

// A register tile: rows, and vectors of 16 outputs.
inline constexpr int TILE_ROWS = 6;
inline constexpr int TILE_VECTORS = 1;

struct Words {
    uint32x4_t quarter[4];
};

// Words made of f(0), ..., f(3), the quarters.
template <class Function>
inline Words each_word(Function &&f) {
    return {{f(0), f(1), f(2), f(3)}};
}

inline Words load_words(const uint32_t *source) {
    return each_word([&](int i) { return vld1q_u32(source + 4 * i); });
}
inline Words splat_word(uint32_t word) {
    return each_word([&](int) { return vdupq_n_u32(word); });
}
inline void store_words(uint32_t *target, Words words) {
    for (int i = 0; i < 4; ++i)
        vst1q_u32(target + 4 * i, words.quarter[i]);
}
inline Words whole_numbers(Vec value) {
    return each_word([&](int i) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(value.quarter[i])); });
}
inline Vec as_floats(Words words) {
    return each([&](int i) { return vreinterpretq_f32_u32(words.quarter[i]); });
}
inline Words as_words(Vec value) {
    return each_word([&](int i) { return vreinterpretq_u32_f32(value.quarter[i]); });
}
inline Words upper_halves(Words words) {
    return each_word([&](int i) { return vandq_u32(words.quarter[i], vdupq_n_u32(0xffff0000u)); });
}
inline Words shifted_up(Words words) {
    return each_word([&](int i) { return vshlq_n_u32(words.quarter[i], 16); });
}

// Bytes with sign on both sides: an element of a row is stored 128 smaller.
struct ByteRows {
    using Element = int8_t;
    using Sum = Words;
    static constexpr size_t PER_WORD = 4;
    static constexpr size_t STORED = 4;
    static constexpr bool INTEGER = true;
    static constexpr bool CONVERTS = false;
    static constexpr int32_t OFFSET = 128;      // what is taken away from an element before it is stored
    static constexpr float MOST_SHARE = 127.0f; // a probability of 1

    static Sum none() { return splat_word(0); }
    static Sum dot(Sum sum, Words row, Words panel) {
        return each_word([&](int i) {
            const int8x16_t left = vreinterpretq_s8_u32(row.quarter[i]), right = vreinterpretq_s8_u32(panel.quarter[i]);
            return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sum.quarter[i]), left, right));
        });
    }
    static Vec to_float(Sum sum, Words sums, int32_t zero) {
        const uint32x4_t factor = vdupq_n_u32(static_cast<uint32_t>(zero));
        return to_float(each_word([&](int i) { return vmlsq_u32(sum.quarter[i], sums.quarter[i], factor); }));
    }
    static Vec to_float(Sum sum) {
        return each([&](int i) { return vcvtq_f32_s32(vreinterpretq_s32_u32(sum.quarter[i])); });
    }
    // Whole numbers from 0 to 255.
    static void store_row(Element *target, Vec value) { store_panel(target, value - splat(128.0f)); }
    // Whole numbers from 0 to 127.
    static void store_share(Element *target, Vec value) { store_panel(target, value); }
    // Whole numbers from -128 to 127.
    static void store_panel(Element *target, Vec value) { store(target, value); }
    static Words join(const Vec (&values)[PER_WORD]) {
        const uint32x4_t mask = vdupq_n_u32(0xff);
        Words bytes[PER_WORD];
        for (size_t i = 0; i < PER_WORD; ++i)
            bytes[i] = whole_numbers(values[i]);
        return each_word([&](int i) {
            const uint32x4_t first = vandq_u32(bytes[0].quarter[i], mask);
            const uint32x4_t second = vshlq_n_u32(vandq_u32(bytes[1].quarter[i], mask), 8);
            const uint32x4_t third = vshlq_n_u32(vandq_u32(bytes[2].quarter[i], mask), 16);
            return vorrq_u32(vorrq_u32(first, second), vorrq_u32(third, vshlq_n_u32(bytes[3].quarter[i], 24)));
        });
    }
};

} // namespace v2e::neon

#include "cpu/simd/words_common.hpp"
