#include "base/sha256.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace v2e {

const std::array<uint32_t, 64> SHA256_ROUNDS = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

// The first 32 bits of the fractional parts of the square roots of the first 8 primes.
constexpr Sha256::State INITIAL = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
constexpr size_t BLOCK = 64; // bytes

uint32_t read_word(const uint8_t *bytes) {
    return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | uint32_t{bytes[3]};
}

// FIPS 180-4, section 6.2.2.
void compress(Sha256::State &state, const uint8_t *block) {
    std::array<uint32_t, 64> words;
    for (size_t i = 0; i < 16; ++i)
        words[i] = read_word(block + 4 * i);
    for (size_t i = 16; i < 64; ++i) {
        const uint32_t near = words[i - 2], far = words[i - 15];
        const uint32_t small1 = std::rotr(near, 17) ^ std::rotr(near, 19) ^ near >> 10;
        const uint32_t small0 = std::rotr(far, 7) ^ std::rotr(far, 18) ^ far >> 3;
        words[i] = words[i - 16] + small0 + words[i - 7] + small1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (size_t i = 0; i < 64; ++i) {
        const uint32_t large1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
        const uint32_t first = h + large1 + ((e & f) ^ (~e & g)) + SHA256_ROUNDS[i] + words[i];
        const uint32_t large0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
        const uint32_t second = large0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const Sha256::State added = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < state.size(); ++i)
        state[i] += added[i];
}

void compress_all(Sha256::State &state, const uint8_t *blocks, size_t count, bool with_instructions) {
    if (with_instructions) {
        sha256_with_instructions(state, blocks, count);
        return;
    }
    for (size_t i = 0; i < count; ++i)
        compress(state, blocks + i * BLOCK);
}

} // namespace

Sha256::Sha256(bool with_instructions)
    : state_(INITIAL), with_instructions_(with_instructions && has_sha256_instructions()) {}

void Sha256::add(const void *data, size_t bytes) {
    const auto *next = static_cast<const uint8_t *>(data);
    total_ += bytes;
    if (buffered_ > 0) {
        const size_t taken = std::min(bytes, BLOCK - buffered_);
        std::memcpy(buffer_.data() + buffered_, next, taken);
        buffered_ += taken;
        next += taken;
        bytes -= taken;
        if (buffered_ < BLOCK)
            return;
        compress_all(state_, buffer_.data(), 1, with_instructions_);
        buffered_ = 0;
    }
    compress_all(state_, next, bytes / BLOCK, with_instructions_);
    next += bytes / BLOCK * BLOCK;
    buffered_ = bytes % BLOCK;
    if (buffered_ > 0)
        std::memcpy(buffer_.data(), next, buffered_);
}

// A bit of 1, zeros, and the number of bits in 8 bytes fill the last block.
Sha256::Value Sha256::finish() {
    const uint64_t bits = total_ * 8;
    std::array<uint8_t, 2 * BLOCK> padding{0x80};
    const size_t zeros = (2 * BLOCK - 9 - buffered_) % BLOCK;
    for (size_t i = 0; i < 8; ++i)
        padding[1 + zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    add(padding.data(), 1 + zeros + 8);
    Value value;
    for (size_t i = 0; i < BYTES; ++i)
        value[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    return value;
}

std::string sha256_hex(const Sha256::Value &value) {
    constexpr char DIGITS[] = "0123456789abcdef";
    std::string text;
    for (const uint8_t byte : value) {
        text += DIGITS[byte >> 4];
        text += DIGITS[byte & 15];
    }
    return text;
}

} // namespace v2e
