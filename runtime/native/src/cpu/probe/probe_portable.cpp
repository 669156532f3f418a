// Peaks of what a compiler makes of plain loops.
#include "cpu/probe/probe_kernels.hpp"

#include <cstddef>

namespace v2e {
namespace {

constexpr size_t LANES = 512; // stay in the first-level cache
constexpr uint64_t ROUNDS_PER_PASS = 32;

double multiply_int8(uint64_t rounds) {
    int16_t weights[LANES], activations[LANES];
    for (size_t lane = 0; lane < LANES; ++lane) {
        weights[lane] = static_cast<int16_t>(lane % 16);
        activations[lane] = static_cast<int16_t>(lane % 255) - 127;
    }
    const uint64_t passes = rounds / ROUNDS_PER_PASS + 1;
    volatile int32_t kept = 0;
    for (uint64_t pass = 0; pass < passes; ++pass) {
        weights[pass % LANES] = static_cast<int16_t>(pass % 16); // else one pass would do for all
        int32_t sum = 0;
        for (size_t lane = 0; lane < LANES; ++lane)
            sum += weights[lane] * activations[lane];
        kept = sum;
    }
    (void)kept;
    return static_cast<double>(passes) * LANES * 2;
}

double multiply_fp32(uint64_t rounds) {
    float sums[LANES] = {};
    const uint64_t passes = rounds / ROUNDS_PER_PASS + 1;
    for (uint64_t pass = 0; pass < passes; ++pass)
        for (size_t lane = 0; lane < LANES; ++lane)
            sums[lane] = sums[lane] * 0.5f + 0.5f;
    volatile float kept = 0;
    for (const float sum : sums)
        kept = sum;
    (void)kept;
    return static_cast<double>(passes) * LANES * 2;
}

} // namespace

const ProbeKernels *probe_kernels_portable() {
    static constexpr ProbeKernels kernels{multiply_int8, multiply_fp32};
    return &kernels;
}

} // namespace v2e
