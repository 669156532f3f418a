#include "probes.hpp"

#include "isa.hpp"

#include <atomic>
#include <chrono>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t PIECE_BYTES = 1 << 20;
constexpr uint64_t PEAK_ROUNDS = 2'000'000;

std::atomic<uint64_t> sink; // keeps the sums from being optimised away

uint64_t sum_piece(const uint8_t *bytes) {
    uint64_t sums[16] = {};
    for (size_t i = 0; i < PIECE_BYTES; i += sizeof sums) {
#if defined(__GNUC__)
        for (size_t line = 0; line < sizeof sums; line += 64)
            __builtin_prefetch(bytes + i + line + 4096);
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

} // namespace

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double measure_read_bandwidth(ThreadPool &pool, const AlignedBuffer<uint8_t> &buffer) {
    const size_t pieces = buffer.size() / PIECE_BYTES;
    const double start = seconds_now();
    pool.run(pieces, [&](size_t piece) { sink.fetch_xor(sum_piece(buffer.data() + piece * PIECE_BYTES)); });
    return static_cast<double>(pieces * PIECE_BYTES) / (seconds_now() - start);
}

double measure_int8_peak(ThreadPool &pool) {
    if (!isa_available(V2E_ISA_AVX512_VNNI))
        return 0;
    std::atomic<double> operations{0};
    const double start = seconds_now();
    pool.run(pool.threads(), [&](size_t) { operations.fetch_add(run_int8_products(PEAK_ROUNDS)); });
    return operations.load() / (seconds_now() - start);
}

} // namespace v2e
