// Independent chains of one instruction, enough of them to hide its latency.
#pragma once

#include <cstdint>
#include <cstring>

namespace v2e {

constexpr int PROBE_CHAINS = 12; // more than two a cycle times the latency of five cycles, fewer than 16 registers

// A value that the compiler cannot foresee: it would make one of chains that begin alike.
template <class Vector>
Vector chain_start(const volatile unsigned char &byte) {
    Vector start;
    std::memset(&start, byte, sizeof start);
    return start;
}

// Vector step(Vector) is the instruction. Returns the number of times that it ran.
template <class Vector, class Step>
double run_chains(uint64_t rounds, Step step) {
    const volatile unsigned char byte = 1; // as a float of any size a normal number
    const auto start = [&] { return chain_start<Vector>(byte); };
    // Named one by one: GCC keeps an array of them in memory.
    Vector a = start(), b = start(), c = start(), d = start(), e = start(), f = start();
    Vector g = start(), h = start(), i = start(), j = start(), k = start(), l = start();
    for (uint64_t round = 0; round < rounds; ++round) {
        a = step(a);
        b = step(b);
        c = step(c);
        d = step(d);
        e = step(e);
        f = step(f);
        g = step(g);
        h = step(h);
        i = step(i);
        j = step(j);
        k = step(k);
        l = step(l);
    }
    const Vector ends[PROBE_CHAINS] = {a, b, c, d, e, f, g, h, i, j, k, l};
    volatile unsigned char kept = 0; // without a use of their ends the chains would be left out
    for (const Vector &end : ends) {
        unsigned char first;
        std::memcpy(&first, &end, 1);
        kept = first;
    }
    (void)kept;
    return static_cast<double>(rounds) * PROBE_CHAINS;
}

} // namespace v2e
