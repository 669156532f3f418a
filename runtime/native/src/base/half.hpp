// Conversions of 16-bit floats, one value at a time, exact and rounded to nearest even.
// `static`: files that are compiled for different instruction sets must not share one out-of-line copy.
#pragma once

#include <cstdint>
#include <cstring>

namespace v2e {

static inline float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_from_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_from_bf16(uint16_t bf16) {
    return float_from_bits(static_cast<uint32_t>(bf16) << 16);
}

static inline float float_from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) // infinity or NaN
        return float_from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x0400u) { // zero or subnormal: rest * 2^-24 is exact
        const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;
        return float_from_bits(sign | bits_from_float(magnitude));
    }
    return float_from_bits(sign | ((rest << 13) + 0x38000000u));
}

static inline uint16_t half_from_float(float value) {
    const uint32_t bits = bits_from_float(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) // NaN stays a NaN, quiet
        return static_cast<uint16_t>(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) // rounds to 65536 or more
        return static_cast<uint16_t>(sign | 0x7c00u);
    if (rest < 0x38800000u) { // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
        const float shifted = float_from_bits(rest) + 0.5f;
        return static_cast<uint16_t>(sign | (bits_from_float(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

} // namespace v2e
