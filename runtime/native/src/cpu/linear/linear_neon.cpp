// Matrix products with NEON and its int8 dot product (ARMv8.2).
#include "cpu/linear/linear_impl.hpp"

#if defined(__ARM_FEATURE_DOTPROD) || defined(_M_ARM64)

#include <arm_neon.h>

namespace v2e {
namespace {

struct Neon {
    using OneRow = Neon;
    static constexpr size_t LANES = 4;
    static constexpr int ROWS = 6; // 6 x 4 sums, 4 weights and one activation fit into 32 registers
    static constexpr bool SIGNED_INT8 = true;
    static constexpr bool TABLES = true;
    static constexpr size_t STREAMED_TILES = 1;
    template <int R>
    static constexpr size_t vectors() {
        return 4;
    }

    using Int = int32x4_t;
    using Float = float32x4_t;
    using Bytes = uint8x16_t;

    static Int set_int(int32_t value) { return vdupq_n_s32(value); }
    static Int load_bytes(const uint8_t *bytes) {
        uint32_t quad;
        std::memcpy(&quad, bytes, sizeof quad);
        const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(quad)));
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)));
    }
    static Int add_int(Int a, Int b) { return vaddq_s32(a, b); }
    static Int subtract_int(Int a, Int b) { return vsubq_s32(a, b); }
    template <bool>
    static Int multiply_byte(Int bytes, int32_t factor) {
        return vmulq_n_s32(bytes, factor);
    }
    static Int max_int(Int a, Int b) { return vmaxq_s32(a, b); }
    static Int shift_left_7(Int a) { return vshlq_n_s32(a, 7); }
    static Int shift_right_7(Int a) { return vshrq_n_s32(a, 7); }
    static int32_t reduce_max(Int a) { return vmaxvq_s32(a); }
    static int32_t reduce_add(Int a) { return vaddvq_s32(a); }
    static void store_int8(int8_t *target, Int a) {
        const int16x4_t words = vmovn_s32(a);
        const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
        const uint32_t quad = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
        std::memcpy(target, &quad, sizeof quad);
    }

    static Float load(const float *source) { return vld1q_f32(source); }
    static Float load_half(const uint16_t *source) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source))); }
    static void store(float *target, Float a) { vst1q_f32(target, a); }
    static Float broadcast(float value) { return vdupq_n_f32(value); }
    static Float multiply(Float a, Float b) { return vmulq_f32(a, b); }
    static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
    static Float to_float(Int a) { return vcvtq_f32_s32(a); }
    static Int magnitude_bits(Float a) { return vandq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(0x7fffffff)); }
    static Int round(Float a) { return vcvtnq_s32_f32(a); }
    static void prefetch(const void *address) {
#if defined(__GNUC__)
        __builtin_prefetch(address);
#else
        __prefetch(address);
#endif
    }
    static void prefetch_far(const void *address) { prefetch(address); }

    static int8x16_t broadcast_quad(const int8_t *source) {
        int32_t quad;
        std::memcpy(&quad, source, sizeof quad);
        return vreinterpretq_s8_s32(vdupq_n_s32(quad));
    }

    template <Source S, bool SIGNED>
    static void split(const uint8_t *packed, Bytes &lower, Bytes &upper) {
        const uint8x16_t bytes = vld1q_u8(packed);
        lower = vandq_u8(bytes, vdupq_n_u8(15));
        upper = vshrq_n_u8(bytes, 4);
        if constexpr (S == Source::nf4_packed) {
            const uint8x16_t levels = vld1q_u8(NF4_TABLE<SIGNED>.bytes);
            lower = vqtbl1q_u8(levels, lower);
            upper = vqtbl1q_u8(levels, upper);
        }
    }

    template <Source S, size_t R>
    static void dot(Int (&sums)[R][4], const uint8_t *weight, const int8_t *activations, size_t columns) {
        if constexpr (is_packed(S))
            dot_packed<S>(sums, weight, activations, columns);
        else
            dot_bytes<S == Source::int8>(sums, weight, activations, columns);
    }

    template <bool OFFSET, size_t R>
    static void dot_bytes(Int (&sums)[R][4], const uint8_t *weight, const int8_t *activations, size_t columns) {
        size_t k = 0;
        do { // a group is never empty
            if constexpr (R == 1)
                prefetch(weight + PREFETCH_BYTES);
            int8x16_t weights[4];
            for (size_t c = 0; c < 4; ++c) {
                const uint8x16_t bytes = vld1q_u8(weight + c * 16);
                weights[c] = vreinterpretq_s8_u8(OFFSET ? veorq_u8(bytes, vdupq_n_u8(128)) : bytes);
            }
            for (size_t r = 0; r < R; ++r) {
                const int8x16_t quad = broadcast_quad(activations + k * R + r * 4);
                for (size_t c = 0; c < 4; ++c)
                    sums[r][c] = vdotq_s32(sums[r][c], weights[c], quad);
            }
            k += 4;
            weight += PANEL * 4;
        } while (k < columns);
    }

    template <Source S, size_t R>
    static void dot_packed(Int (&sums)[R][4], const uint8_t *weight, const int8_t *activations, size_t columns) {
        size_t k = 0;
        do { // a group is never empty
            prefetch(weight + PREFETCH_BYTES);
            for (size_t c = 0; c < 4; ++c) {
                Bytes lower, upper;
                split<S, SIGNED_INT8>(weight + c * 16, lower, upper);
                for (size_t r = 0; r < R; ++r) {
                    const int8_t *a = activations + k * R + r * 4;
                    sums[r][c] = vdotq_s32(sums[r][c], vreinterpretq_s8_u8(lower), broadcast_quad(a));
                    sums[r][c] = vdotq_s32(sums[r][c], vreinterpretq_s8_u8(upper), broadcast_quad(a + 4 * R));
                }
            }
            k += 8;
            weight += PANEL * 4;
        } while (k < columns);
    }

    static constexpr size_t PREFETCH_BYTES = 2048;
};

} // namespace

const LinearKernels *linear_kernels_neon() {
    static constexpr LinearKernels kernels = make_linear_kernels<Neon>();
    return &kernels;
}

} // namespace v2e

#else

const v2e::LinearKernels *v2e::linear_kernels_neon() {
    return nullptr;
}

#endif
