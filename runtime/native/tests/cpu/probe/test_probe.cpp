// The machine's limits: what the products count, and that every limit is a rate.
#include "cpu/isa.hpp"
#include "cpu/probe/probe.hpp"
#include "cpu/probe/probe_chains.hpp"
#include "tests/check.hpp"

using namespace v2e;

TEST_CASE("a probe's chains count their steps") {
    int steps = 0;
    const double counted = run_chains<int>(5, [&](int value) {
        ++steps;
        return value + 1;
    });
    CHECK(steps == 5 * PROBE_CHAINS);
    CHECK(counted == steps);
}

TEST_CASE("a probe counts a multiplication with its addition as two") {
    struct Case {
        v2e_isa isa;
        const ProbeKernels *kernels;
        double int8_products, fp32_products; // products of one instruction
    };
    const Case cases[] = {{V2E_ISA_AVX512_VNNI, probe_kernels_avx512(), 64, 16},
                          {V2E_ISA_AVX_VNNI, probe_kernels_avxvnni(), 32, 8},
                          {V2E_ISA_AVX2, probe_kernels_avx2(), 32, 8},
                          {V2E_ISA_NEON, probe_kernels_neon(), 16, 4}};
    for (const Case &one : cases) {
        if (!isa_available(one.isa))
            continue;
        CHECK(one.kernels->multiply_int8(3) == 3 * PROBE_CHAINS * 2 * one.int8_products);
        CHECK(one.kernels->multiply_fp32(3) == 3 * PROBE_CHAINS * 2 * one.fp32_products);
    }
    CHECK(probe_kernels_portable()->multiply_int8(1000) > 0);
    CHECK(probe_kernels_portable()->multiply_fp32(1000) > 0);
}

TEST_CASE("a probe measures every available instruction set") {
    for (const v2e_isa isa : ALL_ISAS) {
        const v2e_probe_options options{sizeof options, 2, static_cast<uint32_t>(isa)};
        if (!isa_available(isa)) {
            CHECK_FAILS(V2E_ERROR_INPUT, "instruction set", Probe{options});
            continue;
        }
        Probe probe(options);
        CHECK(probe.threads() == 2);
        CHECK(probe.int8_peak() > 0);
        CHECK(probe.fp32_peak() > 0);
    }
}
