// Peaks with NEON and its int8 dot product (ARMv8.2).
#include "cpu/probe/probe_chains.hpp"
#include "cpu/probe/probe_kernels.hpp"

#if defined(__ARM_FEATURE_DOTPROD) || defined(_M_ARM64)

#include <arm_neon.h>

namespace v2e {
namespace {

double multiply_int8(uint64_t rounds) {
    const int8x16_t weights = vdupq_n_s8(3), activations = vdupq_n_s8(-5);
    return 32 * run_chains<int32x4_t>(rounds, [=](int32x4_t sum) { return vdotq_s32(sum, weights, activations); });
}

double multiply_fp32(uint64_t rounds) {
    const float32x4_t factor = vdupq_n_f32(0.5f);
    return 8 * run_chains<float32x4_t>(rounds, [=](float32x4_t sum) { return vfmaq_f32(factor, sum, factor); });
}

} // namespace

const ProbeKernels *probe_kernels_neon() {
    static constexpr ProbeKernels kernels{multiply_int8, multiply_fp32};
    return &kernels;
}

} // namespace v2e

#else

const v2e::ProbeKernels *v2e::probe_kernels_neon() {
    return nullptr;
}

#endif
