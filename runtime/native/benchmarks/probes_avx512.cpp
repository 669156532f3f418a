#include "probes.hpp"

#if defined(__AVX512VNNI__) || (defined(_MSC_VER) && defined(_M_X64))

#include <immintrin.h>
#include <initializer_list>

namespace v2e {
namespace {

inline void multiply(__m512i &sum, __m512i weights, __m512i activations) {
#if defined(__GNUC__)
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
#else
    sum = _mm512_dpbusd_epi32(sum, weights, activations);
#endif
}

} // namespace

double run_int8_products(uint64_t rounds) {
    constexpr int CHAINS = 12; // more than two a cycle times the latency of five cycles
    const __m512i weights = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(-5);
    // Named one by one: GCC keeps an array of them in memory.
    __m512i a = weights, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
    for (uint64_t round = 0; round < rounds; ++round) {
        multiply(a, weights, activations);
        multiply(b, weights, activations);
        multiply(c, weights, activations);
        multiply(d, weights, activations);
        multiply(e, weights, activations);
        multiply(f, weights, activations);
        multiply(g, weights, activations);
        multiply(h, weights, activations);
        multiply(i, weights, activations);
        multiply(j, weights, activations);
        multiply(k, weights, activations);
        multiply(l, weights, activations);
    }
    volatile int32_t result = 0; // keeps the chains alive
    for (const __m512i &sum : {a, b, c, d, e, f, g, h, i, j, k, l})
        result = result + _mm512_reduce_add_epi32(sum);
    return static_cast<double>(rounds) * CHAINS * 64 * 2;
}

} // namespace v2e

#else

double v2e::run_int8_products(uint64_t) {
    return 0;
}

#endif
