// Products of one instruction set that never leave the registers.
#pragma once

#include "valley2.h"

#include <cstdint>

namespace v2e {

// Each runs `rounds` rounds and returns the operations done, 2 for a multiplication with its addition.
struct ProbeKernels {
    double (*multiply_int8)(uint64_t rounds);
    double (*multiply_fp32)(uint64_t rounds);
};

// One table an instruction set; null in a build without it.
const ProbeKernels *probe_kernels_portable();
const ProbeKernels *probe_kernels_avx2();
const ProbeKernels *probe_kernels_avxvnni();
const ProbeKernels *probe_kernels_avx512();
const ProbeKernels *probe_kernels_neon();

} // namespace v2e
