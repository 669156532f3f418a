// Sixteen floats in four NEON registers. Only for files that are compiled for AArch64 with half precision.
#pragma once

#include <arm_neon.h>
#include <cstddef>
#include <cstdint>

#define V2E_SIMD neon
#define V2E_REGISTER_ROWS 6

namespace v2e::neon {

// A matrix product keeps this many rows and vectors of columns in registers.
inline constexpr int REGISTER_ROWS = V2E_REGISTER_ROWS;
inline constexpr int REGISTER_VECTORS = 1;
// Up to this many rows read small values as they are stored; for more, converting them once pays.
inline constexpr int DIRECT_ROWS = 2 * REGISTER_ROWS;

struct Vec {
    float32x4_t quarter[4];
};

// A Vec made of f(0), ..., f(3), the quarters.
template <class Function>
inline Vec each(Function &&f) {
    return {{f(0), f(1), f(2), f(3)}};
}

inline Vec splat(float value) {
    return each([&](int) { return vdupq_n_f32(value); });
}
inline Vec load(const float *source) {
    return each([&](int i) { return vld1q_f32(source + 4 * i); });
}
inline Vec load(const uint16_t *half) {
    return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half + 4 * i))); });
}
inline Vec load(const int8_t *source) {
    const int8x16_t bytes = vld1q_s8(source);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline void store(float *target, Vec value) {
    for (int i = 0; i < 4; ++i)
        vst1q_f32(target + 4 * i, value.quarter[i]);
}
inline void store(uint16_t *half, Vec value) {
    for (int i = 0; i < 4; ++i)
        vst1_u16(half + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(value.quarter[i])));
}
// Whole numbers of at most 127 in magnitude; of anything else, anything.
inline void store(int8_t *target, Vec value) {
    int16x4_t words[4];
    for (int i = 0; i < 4; ++i)
        words[i] = vqmovn_s32(vcvtnq_s32_f32(value.quarter[i]));
    vst1_s8(target, vqmovn_s16(vcombine_s16(words[0], words[1])));
    vst1_s8(target + 8, vqmovn_s16(vcombine_s16(words[2], words[3])));
}

inline Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return vaddq_f32(a.quarter[i], b.quarter[i]); });
}
inline Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return vsubq_f32(a.quarter[i], b.quarter[i]); });
}
inline Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return vmulq_f32(a.quarter[i], b.quarter[i]); });
}
inline Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return vdivq_f32(a.quarter[i], b.quarter[i]); });
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return vfmaq_f32(c.quarter[i], a.quarter[i], b.quarter[i]); });
}

// A NaN in `value` stays a NaN; `bound` is never one.
inline Vec at_least(Vec value, Vec bound) {
    return each([&](int i) { return vmaxq_f32(value.quarter[i], bound.quarter[i]); });
}
inline Vec at_most(Vec value, Vec bound) {
    return each([&](int i) { return vminq_f32(value.quarter[i], bound.quarter[i]); });
}

inline Vec nearest(Vec value) {
    return each([&](int i) { return vrndnq_f32(value.quarter[i]); });
}

// value * 2^power, for whole powers in [-126, 127].
inline Vec scale_by_power(Vec value, Vec power) {
    return each([&](int i) {
        const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(power.quarter[i]), vdupq_n_s32(127));
        return vmulq_f32(value.quarter[i], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    });
}

// 0 where `test` is less than `bound`, else value.
inline Vec zero_below(Vec value, Vec test, float bound) {
    return each([&](int i) {
        const uint32x4_t less = vcltq_f32(test.quarter[i], vdupq_n_f32(bound));
        return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value.quarter[i]), less));
    });
}

// The first `count` lanes of value (0 to 16), and `other` behind them.
inline Vec first_lanes(Vec value, int count, float other) {
    const int32_t lanes[4] = {0, 1, 2, 3};
    const int32x4_t index = vld1q_s32(lanes);
    return each([&](int i) {
        const uint32x4_t keep = vcltq_s32(index, vdupq_n_s32(count - 4 * i));
        return vbslq_f32(keep, value.quarter[i], vdupq_n_f32(other));
    });
}

// yes where a < b, else no.
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return each([&](int i) { return vbslq_f32(vcltq_f32(a.quarter[i], b.quarter[i]), yes.quarter[i], no.quarter[i]); });
}

// Whether every lane is 0.
inline bool is_zero(Vec value) {
    uint32x4_t zero = vceqzq_f32(value.quarter[0]);
    for (int i = 1; i < 4; ++i)
        zero = vandq_u32(zero, vceqzq_f32(value.quarter[i]));
    return vminvq_u32(zero) != 0;
}

} // namespace v2e::neon

#include "cpu/simd/simd_common.hpp"
