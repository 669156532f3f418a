// Peaks with AVX-512 VNNI.
#include "cpu/probe/probe_chains.hpp"
#include "cpu/probe/probe_kernels.hpp"

#if defined(__AVX512VNNI__) || (defined(_MSC_VER) && defined(_M_X64))

#include <immintrin.h>

namespace v2e {
namespace {

double multiply_int8(uint64_t rounds) {
    const __m512i weights = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(-5);
    return 128 *
           run_chains<__m512i>(rounds, [=](__m512i sum) { return _mm512_dpbusd_epi32(sum, weights, activations); });
}

double multiply_fp32(uint64_t rounds) {
    const __m512 factor = _mm512_set1_ps(0.5f);
    return 32 * run_chains<__m512>(rounds, [=](__m512 sum) { return _mm512_fmadd_ps(sum, factor, factor); });
}

} // namespace

const ProbeKernels *probe_kernels_avx512() {
    static constexpr ProbeKernels kernels{multiply_int8, multiply_fp32};
    return &kernels;
}

} // namespace v2e

#else

const v2e::ProbeKernels *v2e::probe_kernels_avx512() {
    return nullptr;
}

#endif
