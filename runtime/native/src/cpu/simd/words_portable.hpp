// Sixteen 32-bit words in an array, for every machine.
#pragma once

#include "cpu/simd/simd_portable.hpp"

#include <cstdint>
#include <cstring>

namespace v2e::portable {

// A register tile: rows, and vectors of 16 outputs.
inline constexpr int TILE_ROWS = 2;
inline constexpr int TILE_VECTORS = 1;

struct Words {
    uint32_t lane[16];
};

// Words made of f(0), ..., f(15), the lanes.
template <class Function>
inline Words each_word(Function &&f) {
    Words result;
    for (int i = 0; i < 16; ++i)
        result.lane[i] = f(i);
    return result;
}

inline Words load_words(const uint32_t *source) {
    Words result;
    std::memcpy(result.lane, source, sizeof result.lane);
    return result;
}
inline Words splat_word(uint32_t word) {
    return each_word([=](int) { return word; });
}
inline void store_words(uint32_t *target, Words words) {
    std::memcpy(target, words.lane, sizeof words.lane);
}
inline Vec as_floats(Words words) {
    Vec result;
    std::memcpy(result.lane, words.lane, sizeof result.lane);
    return result;
}
inline Words as_words(Vec value) {
    Words result;
    std::memcpy(result.lane, value.lane, sizeof result.lane);
    return result;
}
inline Words upper_halves(Words words) {
    return each_word([&](int i) { return words.lane[i] & 0xffff0000u; });
}
inline Words shifted_up(Words words) {
    return each_word([&](int i) { return words.lane[i] << 16; });
}

// Bytes, widened to pairs of 16 bits.
struct ByteRows {
    using Element = int16_t;
    using Sum = Words;
    static constexpr size_t PER_WORD = 2;
    static constexpr size_t STORED = 4;
    static constexpr bool INTEGER = true;
    static constexpr bool CONVERTS = true;
    static constexpr int32_t OFFSET = 0;        // what is taken away from an element before it is stored
    static constexpr float MOST_SHARE = 255.0f; // a probability of 1

    static int32_t low(uint32_t word) { return static_cast<int16_t>(word); }
    static int32_t high(uint32_t word) { return static_cast<int32_t>(word) >> 16; }
    static Sum none() { return splat_word(0); }
    static Sum dot(Sum sum, Words row, Words panel) {
        return each_word([&](int i) {
            const int32_t products = low(row.lane[i]) * low(panel.lane[i]) + high(row.lane[i]) * high(panel.lane[i]);
            return sum.lane[i] + static_cast<uint32_t>(products);
        });
    }
    static Vec to_float(Sum sum, Words sums, int32_t zero) {
        return to_float(each_word([&](int i) { return sum.lane[i] - sums.lane[i] * static_cast<uint32_t>(zero); }));
    }
    static Vec to_float(Sum sum) {
        return each([&](int i) { return static_cast<float>(static_cast<int32_t>(sum.lane[i])); });
    }
    // Whole numbers from -127 to 255.
    static void store_row(Element *target, Vec value) {
        for (int i = 0; i < 16; ++i)
            target[i] = static_cast<int16_t>(value.lane[i]);
    }
    static void store_share(Element *target, Vec value) { store_row(target, value); }
    static void store_panel(Element *target, Vec value) { store_row(target, value); }
    static Words join(const Vec (&values)[PER_WORD]) {
        return each_word([&](int i) {
            const auto first = static_cast<uint16_t>(static_cast<int16_t>(values[0].lane[i]));
            const auto second = static_cast<uint16_t>(static_cast<int16_t>(values[1].lane[i]));
            return static_cast<uint32_t>(first) | static_cast<uint32_t>(second) << 16;
        });
    }
    // (groups, 32) words of four bytes to (2 * groups, 32) words of two 16-bit values.
    static void convert(const uint32_t *source, size_t groups, uint32_t *target) {
        const auto widened = [](uint32_t word, int byte) {
            const auto value = static_cast<int16_t>(static_cast<int8_t>(word >> 8 * byte));
            return static_cast<uint32_t>(static_cast<uint16_t>(value));
        };
        for (size_t group = 0; group < groups; ++group)
            for (size_t lane = 0; lane < 32; ++lane) {
                const uint32_t word = source[group * 32 + lane];
                target[group * 64 + lane] = widened(word, 0) | widened(word, 1) << 16;
                target[group * 64 + 32 + lane] = widened(word, 2) | widened(word, 3) << 16;
            }
    }
};

} // namespace v2e::portable

#include "cpu/simd/words_common.hpp"
