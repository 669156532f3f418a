#include "cpu/isa.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#define V2E_X86 1
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#include <cstdint>

namespace v2e {
namespace {

#if defined(V2E_X86)

struct CpuidResult {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidResult cpuid(uint32_t leaf, uint32_t subleaf) {
    CpuidResult result;
#if defined(_MSC_VER)
    int registers[4];
    __cpuidex(registers, static_cast<int>(leaf), static_cast<int>(subleaf));
    result.eax = static_cast<uint32_t>(registers[0]);
    result.ebx = static_cast<uint32_t>(registers[1]);
    result.ecx = static_cast<uint32_t>(registers[2]);
    result.edx = static_cast<uint32_t>(registers[3]);
#else
    __cpuid_count(leaf, subleaf, result.eax, result.ebx, result.ecx, result.edx);
#endif
    return result;
}

// The registers that the operating system saves on a thread switch (XCR0).
uint64_t saved_registers() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
#endif
}

struct X86Features {
    bool avx2 = false;        // AVX2, FMA, F16C
    bool avx_vnni = false;    // and the VNNI of 256 bits that needs no AVX-512
    bool avx512_vnni = false; // AVX-512 F, BW, VL, DQ and VNNI
    bool avx512_bf16 = false; // and BF16
};

X86Features detect() {
    X86Features features;
    if (cpuid(0, 0).eax < 7)
        return features;
    const CpuidResult base = cpuid(1, 0);
    const CpuidResult extended = cpuid(7, 0);
    const auto bit = [](uint32_t word, unsigned position) { return (word >> position & 1u) != 0; };
    const bool os_saves = bit(base.ecx, 27);
    if (!os_saves)
        return features;
    constexpr uint64_t AVX_STATE = 0x6;     // XMM, YMM
    constexpr uint64_t AVX512_STATE = 0xe6; // and mask registers, ZMM
    const uint64_t saved = saved_registers();
    const bool fma = bit(base.ecx, 12), f16c = bit(base.ecx, 29), avx2 = bit(extended.ebx, 5);
    features.avx2 = (saved & AVX_STATE) == AVX_STATE && fma && f16c && avx2;
    const CpuidResult more = extended.eax >= 1 ? cpuid(7, 1) : CpuidResult{}; // extended.eax: the last subleaf
    features.avx_vnni = features.avx2 && bit(more.eax, 4);
    const bool f = bit(extended.ebx, 16), dq = bit(extended.ebx, 17), bw = bit(extended.ebx, 30);
    const bool vl = bit(extended.ebx, 31), vnni = bit(extended.ecx, 11);
    features.avx512_vnni = features.avx2 && (saved & AVX512_STATE) == AVX512_STATE && f && dq && bw && vl && vnni;
    features.avx512_bf16 = features.avx512_vnni && bit(more.eax, 5);
    return features;
}

const X86Features &x86_features() {
    static const X86Features features = detect();
    return features;
}

#endif

} // namespace

bool isa_available(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_PORTABLE:
        return true;
#if defined(V2E_X86)
    case V2E_ISA_AVX2:
        return x86_features().avx2;
    case V2E_ISA_AVX_VNNI:
#if defined(V2E_AVXVNNI) // by CMake, where the compiler has it
        return x86_features().avx_vnni;
#else
        return false;
#endif
    case V2E_ISA_AVX512_VNNI:
        return x86_features().avx512_vnni;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    case V2E_ISA_NEON: {
        static const bool available = has_arm_dot_product();
        return available;
    }
#endif
    default:
        return false;
    }
}

bool has_avx512_bf16() {
#if defined(V2E_X86)
    return x86_features().avx512_bf16;
#else
    return false;
#endif
}

v2e_isa best_isa() {
    for (const v2e_isa isa : ALL_ISAS)
        if (isa_available(isa))
            return isa;
    return V2E_ISA_PORTABLE;
}

v2e_isa chosen_isa(uint32_t isa) {
    const auto wanted = static_cast<v2e_isa>(isa);
    if (wanted == V2E_ISA_AUTO)
        return best_isa();
    if (!isa_available(wanted))
        fail(V2E_ERROR_INPUT, "This machine cannot run the instruction set %s (%u).", isa_name(wanted),
             static_cast<unsigned>(isa));
    return wanted;
}

const char *isa_name(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_AUTO:
        return "auto";
    case V2E_ISA_PORTABLE:
        return "portable";
    case V2E_ISA_AVX2:
        return "avx2";
    case V2E_ISA_AVX512_VNNI:
        return "avx512-vnni";
    case V2E_ISA_AVX_VNNI:
        return "avx-vnni";
    case V2E_ISA_NEON:
        return "neon";
    }
    return "unknown";
}

} // namespace v2e

extern "C" const char *v2e_isa_name(uint32_t isa) {
    return isa > V2E_ISA_AVX_VNNI ? "unknown" : v2e::isa_name(static_cast<v2e_isa>(isa));
}

extern "C" int v2e_isa_available(uint32_t isa) {
    return isa <= V2E_ISA_AVX_VNNI && v2e::isa_available(static_cast<v2e_isa>(isa)) ? 1 : 0;
}
