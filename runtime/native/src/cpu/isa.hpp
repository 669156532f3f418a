// Instruction sets: what this machine has, found out at run time.
#pragma once

#include "valley2.h"

#include <cstdint>

namespace v2e {

// All of them, the fastest first.
inline constexpr v2e_isa ALL_ISAS[] = {V2E_ISA_AVX512_VNNI, V2E_ISA_AVX_VNNI, V2E_ISA_AVX2, V2E_ISA_NEON,
                                       V2E_ISA_PORTABLE};

// Whether both this build and this machine have it. V2E_ISA_AUTO and unknown values: false.
bool isa_available(v2e_isa isa);
// Whether a machine with V2E_ISA_AVX512_VNNI has AVX512-BF16 as well.
bool has_avx512_bf16();
// The fastest available one.
v2e_isa best_isa();
// What an options struct asks for: V2E_ISA_AUTO is the fastest. Fails with V2E_ERROR_INPUT when it is not available.
v2e_isa chosen_isa(uint32_t isa);
// "portable", "avx2", "avx512-vnni", "neon", "avx-vnni"; "auto" for V2E_ISA_AUTO; "unknown" otherwise.
const char *isa_name(v2e_isa isa);

} // namespace v2e
