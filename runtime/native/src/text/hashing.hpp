// Hashes of short texts and numbers, for open-addressing tables. A file from outside cannot choose what collides: the
// hashes of every process are different.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace v2e {

uint64_t hash_seed();

// Both halves of the product of two numbers, folded.
inline uint64_t fold(uint64_t a, uint64_t b) {
    const uint64_t a_low = a & 0xffffffff, a_high = a >> 32, b_low = b & 0xffffffff, b_high = b >> 32;
    const uint64_t low = a_low * b_low, first = a_high * b_low, second = a_low * b_high;
    const uint64_t middle = (low >> 32) + (first & 0xffffffff) + second;
    const uint64_t high = a_high * b_high + (first >> 32) + (middle >> 32);
    return (middle << 32 | (low & 0xffffffff)) ^ high;
}

inline uint64_t hash_number(uint64_t number, uint64_t seed) {
    return fold(number ^ seed, 0x9e3779b97f4a7c15u ^ (seed >> 32 | seed << 32));
}

inline uint64_t hash_bytes(std::string_view bytes, uint64_t seed) {
    uint64_t hash = hash_number(bytes.size(), seed);
    for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, bytes.size() - i < sizeof word ? bytes.size() - i : sizeof word);
        hash = hash_number(word ^ hash, seed);
    }
    return hash;
}

} // namespace v2e
