#include "cpu/vision/vision_kernels.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

namespace v2e {
namespace {

const VisionKernels *find_kernels(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_AVX512_VNNI:
        return vision_kernels_avx512();
    case V2E_ISA_AVX_VNNI:
    case V2E_ISA_AVX2:
        return vision_kernels_avx2();
    case V2E_ISA_NEON:
        return vision_kernels_neon();
    case V2E_ISA_PORTABLE:
        return vision_kernels_portable();
    case V2E_ISA_AUTO:
        return find_kernels(best_isa());
    }
    return nullptr;
}

} // namespace

const VisionKernels &vision_kernels(v2e_isa isa) {
    const VisionKernels *kernels = find_kernels(isa);
    if (kernels == nullptr)
        fail(V2E_ERROR_INPUT, "This machine or this build does not have the instruction set %s.", isa_name(isa));
    return *kernels;
}

} // namespace v2e
