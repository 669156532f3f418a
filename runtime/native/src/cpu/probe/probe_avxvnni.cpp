// Peaks with AVX-VNNI; that of floats is AVX2's.
#include "cpu/probe/probe_chains.hpp"
#include "cpu/probe/probe_kernels.hpp"

#if defined(V2E_AVXVNNI) // by CMake, where the compiler has it

#include "cpu/simd/vpdpbusd_avxvnni.hpp"

namespace v2e {
namespace {

double multiply_int8(uint64_t rounds) {
    const __m256i weights = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(-5);
    return 64 * run_chains<__m256i>(rounds, [=](__m256i sum) { return vpdpbusd(sum, weights, activations); });
}

} // namespace

const ProbeKernels *probe_kernels_avxvnni() {
    static const ProbeKernels kernels{multiply_int8, probe_kernels_avx2()->multiply_fp32};
    return &kernels;
}

} // namespace v2e

#else

const v2e::ProbeKernels *v2e::probe_kernels_avxvnni() {
    return nullptr;
}

#endif
