// Sixteen floats in an array, for every machine; compilers turn the loops into whatever vectors they may use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.hpp"

#define V2E_SIMD portable
#define V2E_REGISTER_ROWS 2

namespace v2e::portable {

// A matrix product keeps this many rows and vectors of columns in registers.
inline constexpr int REGISTER_ROWS = V2E_REGISTER_ROWS;
inline constexpr int REGISTER_VECTORS = 1;

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
// Without branches, so that it becomes vector code: shifted into place, a half is 2^112 times too small.
inline Vec load(const uint16_t *half) {
    uint32_t bits[16], signs[16];
    for (int i = 0; i < 16; ++i) {
        bits[i] = (half[i] & 0x7fffu) << 13;
        signs[i] = (half[i] & 0x8000u) << 16;
    }
    Vec result;
    std::memcpy(result.lane, bits, sizeof bits);
    result = each([&](int i) { return result.lane[i] * 0x1p112f; });
    std::memcpy(bits, result.lane, sizeof bits);
    for (int i = 0; i < 16; ++i) {
        const uint32_t special = bits[i] >= 0x47800000u ? 0x7f800000u : 0u; // 65536 and more: infinity or NaN
        bits[i] |= special | signs[i];
    }
    std::memcpy(result.lane, bits, sizeof bits);
    return result;
}
inline void store(float *target, Vec value) {
    std::memcpy(target, value.lane, sizeof value.lane);
}
inline void store(uint16_t *half, Vec value) {
    for (int i = 0; i < 16; ++i)
        half[i] = half_from_float(value.lane[i]);
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

} // namespace v2e::portable

#include "kernels/simd_common.hpp"
