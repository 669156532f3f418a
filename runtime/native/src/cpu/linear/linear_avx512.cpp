// Matrix products with AVX-512 and its int8 dot product (VNNI).
#include "cpu/linear/linear_kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)

#include "cpu/linear/linear_vectors_avx2.hpp"
#include "cpu/linear/linear_vnni.hpp"

#include <immintrin.h>

namespace v2e {
namespace {

// What is read once comes in faster by 32 bytes than by 64 (AMD's Zen 4).
struct HalfVectors : Avx2Vectors {
    using OneRow = HalfVectors;
    static constexpr int ROWS = 1;
    static constexpr size_t KEPT_ROWS = 1;

    static Int dot4(Int sums, Int weights, Int activations) {
#if defined(__GNUC__)
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(activations));
        return sums;
#else
        return _mm256_dpbusd_epi32(sums, weights, activations);
#endif
    }
};

struct Avx512Vectors {
    using OneRow = HalfVectors;
    static constexpr size_t LANES = 16;
    static constexpr int ROWS = 6; // 6 x 4 sums, 4 weights and one activation fit into 32 registers
    static constexpr bool TABLES = true;
    static constexpr size_t STREAMED_TILES = 2;
    template <int R>
    static constexpr size_t vectors() {
        return 4;
    }

    using Int = __m512i;
    using Float = __m512;
    using Bytes = __m512i;

    static Int set_int(int32_t value) { return _mm512_set1_epi32(value); }
    static Int load_bytes(const uint8_t *bytes) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes)));
    }
    static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static Int subtract_int(Int a, Int b) { return _mm512_sub_epi32(a, b); }
    template <bool WIDE>
    static Int multiply_byte(Int bytes, int32_t factor) {
        const Int factors = _mm512_set1_epi32(factor);
        return WIDE ? _mm512_mullo_epi32(bytes, factors) : _mm512_madd_epi16(bytes, factors);
    }
    static Int max_int(Int a, Int b) { return _mm512_max_epi32(a, b); }
    static Int shift_left_7(Int a) { return _mm512_slli_epi32(a, 7); }
    static Int shift_right_7(Int a) { return _mm512_srai_epi32(a, 7); }
    static int32_t reduce_max(Int a) { return _mm512_reduce_max_epi32(a); }
    static int32_t reduce_add(Int a) { return _mm512_reduce_add_epi32(a); }
    static void store_int8(int8_t *target, Int a) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(target), _mm512_cvtepi32_epi8(a));
    }

    static Float load(const float *source) { return _mm512_loadu_ps(source); }
    static Float load_half(const uint16_t *source) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(source)));
    }
    static void store(float *target, Float a) { _mm512_storeu_ps(target, a); }
    static Float broadcast(float value) { return _mm512_set1_ps(value); }
    static Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
    static Int magnitude_bits(Float a) {
        return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
    }
    static Int round(Float a) { return _mm512_cvtps_epi32(a); }
    static void prefetch_far(const void *address) { _mm_prefetch(static_cast<const char *>(address), _MM_HINT_T1); }

    // sums + 4 products of unsigned weights and signed activations in each lane.
    static Int dot4(Int sums, Int weights, Int activations) {
#if defined(__GNUC__)
        // GCC 12 surrounds the intrinsic with two register moves.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(activations));
        return sums;
#else
        return _mm512_dpbusd_epi32(sums, weights, activations);
#endif
    }

    static Int load_weights(const uint8_t *source) { return _mm512_loadu_si512(source); }
    static Int broadcast_quad(const int8_t *source) {
        int32_t quad;
        std::memcpy(&quad, source, sizeof quad);
        return _mm512_set1_epi32(quad);
    }

    template <Source S, bool SIGNED>
    static void split(const uint8_t *packed, Bytes &lower, Bytes &upper) {
        const Int bytes = load_weights(packed), mask = _mm512_set1_epi8(15);
        lower = _mm512_and_si512(bytes, mask);
        upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
        if constexpr (S == Source::nf4_packed) {
            const auto *table = reinterpret_cast<const __m128i *>(NF4_TABLE<SIGNED>.bytes);
            const Int levels = _mm512_broadcast_i32x4(_mm_loadu_si128(table));
            lower = _mm512_shuffle_epi8(levels, lower);
            upper = _mm512_shuffle_epi8(levels, upper);
        }
    }

    static constexpr size_t KEPT_ROWS = ROWS;
};

} // namespace

const LinearKernels *linear_kernels_avx512() {
    static constexpr LinearKernels kernels = make_linear_kernels<Vnni<Avx512Vectors>>();
    return &kernels;
}

} // namespace v2e

#else

const v2e::LinearKernels *v2e::linear_kernels_avx512() {
    return nullptr;
}

#endif
