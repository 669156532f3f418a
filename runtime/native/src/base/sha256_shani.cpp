// SHA-256 with the instructions that Intel and AMD call SHA extensions.
#include "base/sha256.hpp"

#if defined(V2E_SHANI)

#include <cpuid.h>
#include <immintrin.h>

namespace v2e {

bool has_sha256_instructions() {
    static const bool found = [] {
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
        if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_SSE4_1) == 0 || (ecx & bit_SSSE3) == 0)
            return false;
        return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ebx & bit_SHA) != 0;
    }();
    return found;
}

// The instructions hold the state as the words (a, b, e, f) and (c, d, g, h), the highest first, and compute two rounds
// each. Of the schedule there are always the next 16 words, four to a register.
void sha256_with_instructions(Sha256::State &state, const uint8_t *blocks, size_t count) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const auto *words = reinterpret_cast<const __m128i *>(state.data());
    const __m128i dcba = _mm_loadu_si128(words), hgfe = _mm_loadu_si128(words + 1);
    const __m128i badc = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(badc, efgh, 8), cdgh = _mm_blend_epi16(efgh, badc, 0xf0);
    for (size_t block = 0; block < count; ++block) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i schedule[4];
        for (int i = 0; i < 4; ++i)
            schedule[i] = _mm_shuffle_epi8(
                _mm_loadu_si128(reinterpret_cast<const __m128i *>(blocks + 64 * block + 16 * i)), big_endian);
        for (int round = 0; round < 16; ++round) {
            __m128i &now = schedule[round % 4];
            if (round >= 4) {
                const __m128i &next = schedule[(round + 1) % 4], &third = schedule[(round + 2) % 4],
                              &last = schedule[(round + 3) % 4];
                now = _mm_add_epi32(_mm_sha256msg1_epu32(now, next), _mm_alignr_epi8(last, third, 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            const auto *constants = reinterpret_cast<const __m128i *>(SHA256_ROUNDS.data() + 4 * round);
            const __m128i added = _mm_add_epi32(now, _mm_loadu_si128(constants));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(added, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    auto *results = reinterpret_cast<__m128i *>(state.data());
    _mm_storeu_si128(results, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(results + 1, _mm_alignr_epi8(dchg, feba, 8));
}

} // namespace v2e

#else

namespace v2e {

bool has_sha256_instructions() {
    return false;
}

void sha256_with_instructions(Sha256::State &, const uint8_t *, size_t) {}

} // namespace v2e

#endif
