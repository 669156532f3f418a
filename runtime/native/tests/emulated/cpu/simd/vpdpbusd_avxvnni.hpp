// Stands for the header of the same name where linear_avxvnni.cpp is compiled for the tests: the same result with AVX2.
#pragma once

#include <immintrin.h>

namespace v2e {
namespace {

// sums + 4 products of unsigned weights and signed activations in each lane. Every second byte, widened to 16 bits, at
// a time: unlike vpmaddubsw nothing saturates.
inline __m256i vpdpbusd(__m256i sums, __m256i weights, __m256i activations) {
    const __m256i even_weights = _mm256_and_si256(weights, _mm256_set1_epi16(255));
    const __m256i even_activations = _mm256_srai_epi16(_mm256_slli_epi16(activations, 8), 8);
    const __m256i odd_weights = _mm256_srli_epi16(weights, 8), odd_activations = _mm256_srai_epi16(activations, 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even_weights, even_activations));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(odd_weights, odd_activations));
}

} // namespace
} // namespace v2e
