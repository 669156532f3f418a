#include "cpu/rounding/rounding_kernels.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

namespace v2e {

const RoundingKernels &rounding_kernels(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_PORTABLE:
        return portable::rounding;
#if defined(__x86_64__) || defined(_M_X64)
    case V2E_ISA_AVX2:
    case V2E_ISA_AVX_VNNI:
        return avx2::rounding;
    case V2E_ISA_AVX512_VNNI:
        return avx512::rounding;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    case V2E_ISA_NEON:
        return neon::rounding;
#endif
    default:
        fail(V2E_ERROR_INTERNAL, "There are no rounding kernels for the instruction set %s.", isa_name(isa));
    }
}

} // namespace v2e
