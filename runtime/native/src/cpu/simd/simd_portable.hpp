// Sixteen floats in an array, for every machine; compilers turn the loops into whatever vectors they may use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.hpp"

#define V2E_SIMD portable
#define V2E_REGISTER_ROWS 2

namespace v2e::portable {

// A matrix product keeps this many rows and vectors of columns in registers.
inline constexpr int REGISTER_ROWS = V2E_REGISTER_ROWS;
inline constexpr int REGISTER_VECTORS = 1;
// Up to this many rows read small values as they are stored: here none, since converting one Vec alone is slow.
inline constexpr int DIRECT_ROWS = 0;

struct Vec {
    float lane[16];
};

// A Vec made of f(0), ..., f(15), the lanes.
template <class Function>
inline Vec each(Function &&f) {
    Vec result;
    for (int i = 0; i < 16; ++i)
        result.lane[i] = f(i);
    return result;
}

inline Vec splat(float value) {
    return each([&](int) { return value; });
}
inline Vec load(const float *source) {
    Vec result;
    std::memcpy(result.lane, source, sizeof result.lane);
    return result;
}
// It has no branches and a loop of any length, so that it becomes vector code: one of 16 would be unrolled instead.
inline void widen(const uint16_t *half, size_t count, float *target) {
    for (size_t i = 0; i < count; ++i) {
        // Shifted into place, a half is 2^112 times too small. Of the sign that fills the upper half one bit stays.
        const uint32_t bits = static_cast<uint32_t>(static_cast<int16_t>(half[i])) << 13 & 0x8fffe000u;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
        uint32_t result;
        std::memcpy(&result, &value, sizeof result);
        const bool special = static_cast<int32_t>(result & 0x7fffffffu) >= 0x47800000; // 65536: infinity or NaN
        result |= special ? 0x7f800000u : 0u;
        std::memcpy(target + i, &result, sizeof result);
    }
}
inline void widen(const int8_t *source, size_t count, float *target) {
    for (size_t i = 0; i < count; ++i)
        target[i] = static_cast<float>(source[i]);
}
inline Vec load(const uint16_t *half) {
    Vec result;
    widen(half, 16, result.lane);
    return result;
}
inline Vec load(const int8_t *source) {
    return each([&](int i) { return static_cast<float>(source[i]); });
}
inline void store(float *target, Vec value) {
    std::memcpy(target, value.lane, sizeof value.lane);
}
inline void store(uint16_t *half, Vec value) {
    for (int i = 0; i < 16; ++i)
        half[i] = half_from_float(value.lane[i]);
}
// Whole numbers of at most 127 in magnitude; of anything else, anything. 1.5 * 2^23 leaves them in the lowest bits.
inline void store(int8_t *target, Vec value) {
    for (int i = 0; i < 16; ++i) {
        const float shifted = value.lane[i] + 12582912.0f;
        uint32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        target[i] = static_cast<int8_t>(static_cast<uint8_t>(bits));
    }
}

inline Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
// Rounded twice: std::fma without hardware for it is some fifty times slower.
inline Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}

// A NaN in `value` stays a NaN; one in `bound` does not count.
inline Vec at_least(Vec value, Vec bound) {
    return each([&](int i) { return bound.lane[i] > value.lane[i] ? bound.lane[i] : value.lane[i]; });
}
inline Vec at_most(Vec value, Vec bound) {
    return each([&](int i) { return bound.lane[i] < value.lane[i] ? bound.lane[i] : value.lane[i]; });
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest whole number, for magnitudes below 2^22.
inline Vec nearest(Vec value) {
    return each([&](int i) { return (value.lane[i] + 12582912.0f) - 12582912.0f; });
}

// value * 2^power, for whole powers in [-126, 127]; a NaN as power gives a NaN or anything, value is then a NaN.
inline Vec scale_by_power(Vec value, Vec power) {
    return each([&](int i) {
        const float shifted = power.lane[i] + 12583039.0f; // 1.5 * 2^23 + 127: the exponent in the lowest bits
        uint32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits <<= 23;
        float factor;
        std::memcpy(&factor, &bits, sizeof factor);
        return value.lane[i] * factor;
    });
}

// 0 where `test` is less than `bound`, else value.
inline Vec zero_below(Vec value, Vec test, float bound) {
    return each([&](int i) { return test.lane[i] < bound ? 0.0f : value.lane[i]; });
}

// The first `count` lanes of value (0 to 16), and `other` behind them.
inline Vec first_lanes(Vec value, int count, float other) {
    return each([&](int i) { return i < count ? value.lane[i] : other; });
}

// yes where a < b, else no.
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; });
}

// Whether every lane is 0.
inline bool is_zero(Vec value) {
    bool zero = true;
    for (int i = 0; i < 16; ++i)
        zero = zero && value.lane[i] == 0.0f;
    return zero;
}

} // namespace v2e::portable

#include "cpu/simd/simd_common.hpp"
