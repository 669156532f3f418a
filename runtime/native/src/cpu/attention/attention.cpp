#include "cpu/attention/attention.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

namespace v2e {

size_t attention_segments(const AttentionTask &task) {
    return (task.first_position + task.positions + KEY_SEGMENT - 1) / KEY_SEGMENT;
}

size_t attention_scratch_floats(size_t head_size) {
    constexpr size_t KEYS = 64;
    // Packed queries; two sets of sums; keys and values of a block in fp32; scores; correction.
    return MAX_ATTENTION_ROWS * head_size + 2 * attention_partial_floats(MAX_ATTENTION_ROWS, head_size) +
           2 * KEYS * head_size + 16 * KEYS + 16;
}

size_t attention_partial_floats(size_t rows, size_t head_size) {
    const size_t padded = (rows + 15) / 16 * 16; // whole cache lines
    return rows * head_size + 2 * padded;        // sums; maxima and totals
}

const AttentionKernels &attention_kernels(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_PORTABLE:
        return portable::attention;
#if defined(__x86_64__) || defined(_M_X64)
    case V2E_ISA_AVX2:
    case V2E_ISA_AVX_VNNI:
        return avx2::attention;
    case V2E_ISA_AVX512_VNNI:
        return avx512::attention;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    case V2E_ISA_NEON:
        return neon::attention;
#endif
    default:
        fail(V2E_ERROR_INTERNAL, "There is no attention kernel for the instruction set %s.", isa_name(isa));
    }
}

} // namespace v2e
