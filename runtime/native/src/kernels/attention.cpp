#include "kernels/attention.hpp"

#include "error.hpp"
#include "isa.hpp"

namespace v2e {

size_t attention_scratch_floats(size_t head_size) {
    constexpr size_t KEYS = 64;
    // Packed queries and sums; keys and values of a block in fp32; scores; running maximum, sum and correction.
    return 2 * MAX_ATTENTION_ROWS * head_size + 2 * KEYS * head_size + 16 * KEYS + 3 * MAX_ATTENTION_ROWS;
}

AttentionFunction attention_function(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_PORTABLE:
        return portable::attend;
#if defined(__x86_64__) || defined(_M_X64)
    case V2E_ISA_AVX2:
        return avx2::attend;
    case V2E_ISA_AVX512_VNNI:
        return avx512::attend;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    case V2E_ISA_NEON:
        return neon::attend;
#endif
    default:
        fail(V2E_ERROR_INTERNAL, "There is no attention kernel for the instruction set %s.", isa_name(isa));
    }
}

} // namespace v2e
