// Peaks with AVX2 and FMA.
#include "cpu/probe/probe_chains.hpp"
#include "cpu/probe/probe_kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)

#include <immintrin.h>

namespace v2e {
namespace {

// The multiplication alone: adding what it gives costs other units, and only every so often an instruction of its own.
double multiply_int8(uint64_t rounds) {
    const __m256i activations = _mm256_set1_epi8(-5);
    return 64 *
           run_chains<__m256i>(rounds, [=](__m256i products) { return _mm256_maddubs_epi16(products, activations); });
}

double multiply_fp32(uint64_t rounds) {
    const __m256 factor = _mm256_set1_ps(0.5f);
    return 16 * run_chains<__m256>(rounds, [=](__m256 sum) { return _mm256_fmadd_ps(sum, factor, factor); });
}

} // namespace

const ProbeKernels *probe_kernels_avx2() {
    static constexpr ProbeKernels kernels{multiply_int8, multiply_fp32};
    return &kernels;
}

} // namespace v2e

#else

const v2e::ProbeKernels *v2e::probe_kernels_avx2() {
    return nullptr;
}

#endif
