// Matrix products with AVX2, FMA and F16C.
#include "cpu/linear/linear_kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)

#include "cpu/linear/linear_vectors_avx2.hpp"

namespace v2e {
namespace {

struct Avx2 : Avx2Vectors {
    using OneRow = Avx2;
    static constexpr int ROWS = 5; // 5 x 2 sums, 2 weights, an activation and temporaries fit into 16 registers
    static constexpr bool SIGNED_INT8 = true;

    template <Source S, size_t R, size_t C>
    static void dot(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations, size_t columns) {
        for (size_t k = 0; k < columns; k += STEP) {
            if constexpr (S == Source::int4_packed)
                dot_packed(sums, weight + k * PANEL / 2, activations + k * R);
            else if constexpr (S == Source::nf4_packed)
                dot_nf4(sums, weight + k * PANEL / 2, activations + k * R);
            else if constexpr (S == Source::int4_unpacked)
                dot_int4(sums, weight + k * PANEL, activations + k * R);
            else
                dot_int8(sums, weight + k * PANEL, activations + k * R);
        }
    }

    // GCC would rearrange a chain of additions and hold all of its products at once, in memory for want of registers.
    static void add_words(Int &words, Int products) {
#if defined(__GNUC__)
        __asm__("vpaddw %1, %0, %0" : "+x"(words) : "x"(products));
#else
        words = _mm256_add_epi16(words, products);
#endif
    }

    static void add_ints(Int &sums, Int products) {
#if defined(__GNUC__)
        __asm__("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
#else
        sums = _mm256_add_epi32(sums, products);
#endif
    }

    // 32 columns of int4: eight sums of two products, each at most 2 * 15 * 127, stay below 2^15, so that they can be
    // added in 16 bits.
    template <size_t R, size_t C>
    static void widen(Int (&sums)[R][C], const Int (&words)[R][C]) {
        const Int ones = _mm256_set1_epi16(1);
        V2E_UNROLL
        for (size_t r = 0; r < R; ++r) {
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c)
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(words[r][c], ones));
        }
    }

    template <size_t R, size_t C>
    static void dot_packed(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations) {
        Int words[R][C] = {};
        V2E_UNROLL
        for (size_t k = 0; k < STEP; k += 8, weight += PANEL * 4) {
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c) {
                Bytes lower, upper;
                split<Source::int4_packed, false>(weight + c * 32, lower, upper);
                V2E_UNROLL
                for (size_t r = 0; r < R; ++r) {
                    const int8_t *a = activations + k * R + r * 4;
                    const Int low_products = _mm256_maddubs_epi16(lower, broadcast_quad(a));
                    const Int high_products = _mm256_maddubs_epi16(upper, broadcast_quad(a + 4 * R));
                    add_words(words[r][c], _mm256_add_epi16(low_products, high_products));
                }
            }
        }
        widen(sums, words);
    }

    template <size_t R, size_t C>
    static void dot_int4(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations) {
        Int words[R][C] = {};
        V2E_UNROLL
        for (size_t k = 0; k < STEP; k += 4, weight += PANEL * 4) {
            Int weights[C];
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c)
                weights[c] = load_weights(weight + c * 32);
            V2E_UNROLL
            for (size_t r = 0; r < R; ++r) {
                const Int quad = broadcast_quad(activations + k * R + r * 4);
                V2E_UNROLL
                for (size_t c = 0; c < C; ++c)
                    add_words(words[r][c], _mm256_maddubs_epi16(weights[c], quad));
            }
        }
        widen(sums, words);
    }

    // Adds 4 products of signed weights and activations to each lane. maddubs wants one unsigned side: the weight's
    // sign moves to the activation. 2 * 127 * 127 stays below 2^15.
    static void dot4(Int &sums, Int weights, Int magnitudes, Int activations) {
        const Int words = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(activations, weights));
        add_ints(sums, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
    }

    // Products of nf4 are too large to be added in 16 bits.
    template <size_t R, size_t C>
    static void dot_nf4(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations) {
        V2E_UNROLL
        for (size_t k = 0; k < STEP; k += 8, weight += PANEL * 4) {
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c) {
                Bytes lower, upper;
                split<Source::nf4_packed, true>(weight + c * 32, lower, upper);
                const Int low_magnitudes = _mm256_abs_epi8(lower), high_magnitudes = _mm256_abs_epi8(upper);
                V2E_UNROLL
                for (size_t r = 0; r < R; ++r) {
                    const int8_t *a = activations + k * R + r * 4;
                    dot4(sums[r][c], lower, low_magnitudes, broadcast_quad(a));
                    dot4(sums[r][c], upper, high_magnitudes, broadcast_quad(a + 4 * R));
                }
            }
        }
    }

    template <size_t R, size_t C>
    static void dot_int8(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations) {
        const Int offset = _mm256_set1_epi8(-128);
        V2E_UNROLL
        for (size_t k = 0; k < STEP; k += 4, weight += PANEL * 4) {
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c) {
                const Int weights = _mm256_xor_si256(load_weights(weight + c * 32), offset);
                const Int magnitudes = _mm256_abs_epi8(weights);
                V2E_UNROLL
                for (size_t r = 0; r < R; ++r)
                    dot4(sums[r][c], weights, magnitudes, broadcast_quad(activations + k * R + r * 4));
            }
        }
    }

    static constexpr size_t STEP = 32; // columns
};

} // namespace

const LinearKernels *linear_kernels_avx2() {
    static constexpr LinearKernels kernels = make_linear_kernels<Avx2>();
    return &kernels;
}

} // namespace v2e

#else

const v2e::LinearKernels *v2e::linear_kernels_avx2() {
    return nullptr;
}

#endif
