#include "cpu/probe/probe.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t BLOCK_BYTES = size_t{512} << 20; // far larger than the caches
constexpr size_t PIECE_BYTES = size_t{1} << 20;
constexpr size_t PREFETCH_BYTES = 4096;
constexpr size_t TASKS_PER_THREAD = 16; // claimed one by one: threads of unequal speed all count until the end
constexpr uint64_t ROUNDS_PER_TASK = 125'000;
constexpr int SHOTS = 3; // the best counts: one that was interrupted says nothing about the machine

std::atomic<uint64_t> sink; // keeps the sums from being left out

uint64_t sum_piece(const uint8_t *bytes) {
    uint64_t sums[16] = {};
    for (size_t i = 0; i < PIECE_BYTES; i += sizeof sums) {
#if defined(__GNUC__)
        for (size_t line = 0; line < sizeof sums; line += 64)
            __builtin_prefetch(bytes + i + line + PREFETCH_BYTES);
#endif
        uint64_t words[16];
        std::memcpy(words, bytes + i, sizeof words);
        for (size_t j = 0; j < 16; ++j)
            sums[j] ^= words[j];
    }
    uint64_t total = 0;
    for (const uint64_t sum : sums)
        total ^= sum;
    return total;
}

// The best of some shots; a shot returns what it did, in bytes or operations.
template <class Shot>
double best_rate(Shot &&shot) {
    double best = 0;
    for (int i = 0; i < SHOTS; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        const double amount = shot();
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
        best = std::max(best, amount / elapsed.count());
    }
    return best;
}

const ProbeKernels &kernels_for(v2e_isa isa) {
    const ProbeKernels *kernels = nullptr;
    switch (isa) {
    case V2E_ISA_AVX512_VNNI:
        kernels = probe_kernels_avx512();
        break;
    case V2E_ISA_AVX_VNNI:
        kernels = probe_kernels_avxvnni();
        break;
    case V2E_ISA_AVX2:
        kernels = probe_kernels_avx2();
        break;
    case V2E_ISA_NEON:
        kernels = probe_kernels_neon();
        break;
    case V2E_ISA_PORTABLE:
    case V2E_ISA_AUTO:
        kernels = probe_kernels_portable();
        break;
    }
    if (kernels == nullptr)
        fail(V2E_ERROR_INPUT, "This build does not have the instruction set %s.", isa_name(isa));
    return *kernels;
}

} // namespace

Probe::Probe(const v2e_probe_options &options)
    : kernels_(kernels_for(chosen_isa(options.isa))), pool_(chosen_threads(options.threads)) {}

double Probe::bandwidth() {
    if (block_.size() == 0) {
        block_.reserve(BLOCK_BYTES);
        std::memset(block_.data(), 1, BLOCK_BYTES); // pages that were never written are all the same page
    }
    return best_rate([&] {
        pool_.run(BLOCK_BYTES / PIECE_BYTES,
                  [&](size_t piece) { sink.fetch_xor(sum_piece(block_.data() + piece * PIECE_BYTES)); });
        return static_cast<double>(BLOCK_BYTES);
    });
}

double Probe::int8_peak() {
    return peak(kernels_.multiply_int8);
}

double Probe::fp32_peak() {
    return peak(kernels_.multiply_fp32);
}

double Probe::peak(double (*multiply)(uint64_t rounds)) {
    return best_rate([&] {
        std::atomic<double> operations{0};
        pool_.run(pool_.threads() * TASKS_PER_THREAD, [&](size_t) { operations.fetch_add(multiply(ROUNDS_PER_TASK)); });
        return operations.load();
    });
}

} // namespace v2e
