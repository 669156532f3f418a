#include "base/digest.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace v2e {
namespace {

constexpr std::array<uint64_t, 8> INITIAL = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu,
                                             0xa54ff53a5f1d36f1u, 0x510e527fade682d1u, 0x9b05688c2b3e6c1fu,
                                             0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};
constexpr uint64_t PARAMETERS = 0x01010000; // no key, no tree; the length of the result comes on top
constexpr size_t ROUNDS = 12;

// Which words of the block a round mixes in; after ten rounds the first comes again.
constexpr uint8_t ORDER[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

uint64_t read_word(const uint8_t *bytes) {
    uint64_t word = 0;
    for (unsigned i = 0; i < 8; ++i)
        word |= uint64_t{bytes[i]} << (8 * i);
    return word;
}

inline void mix(uint64_t &a, uint64_t &b, uint64_t &c, uint64_t &d, uint64_t x, uint64_t y) {
    a += b + x;
    d = std::rotr(d ^ a, 32);
    c += d;
    b = std::rotr(b ^ c, 24);
    a += b + y;
    d = std::rotr(d ^ a, 16);
    c += d;
    b = std::rotr(b ^ c, 63);
}

} // namespace

Digest::Digest() : state_(INITIAL) {
    state_[0] ^= PARAMETERS ^ BYTES;
}

void Digest::add(const void *data, size_t bytes) {
    const auto *next = static_cast<const uint8_t *>(data);
    while (bytes > 0) {
        if (buffered_ == BLOCK) {
            compress(buffer_.data(), false);
            buffered_ = 0;
        }
        if (buffered_ == 0 && bytes > BLOCK) {
            compress(next, false);
            next += BLOCK;
            bytes -= BLOCK;
            continue;
        }
        const size_t step = std::min(bytes, BLOCK - buffered_);
        std::memcpy(buffer_.data() + buffered_, next, step);
        buffered_ += step;
        next += step;
        bytes -= step;
    }
}

Digest::Value Digest::finish() {
    std::memset(buffer_.data() + buffered_, 0, BLOCK - buffered_);
    compress(buffer_.data(), true);
    Value value;
    for (size_t i = 0; i < BYTES; ++i)
        value[i] = static_cast<uint8_t>(state_[i / 8] >> (8 * (i % 8)));
    return value;
}

void Digest::compress(const uint8_t *block, bool last) {
    total_ += last ? buffered_ : BLOCK;
    uint64_t words[16], v[16];
    for (size_t i = 0; i < 16; ++i)
        words[i] = read_word(block + 8 * i);
    for (size_t i = 0; i < 8; ++i) {
        v[i] = state_[i];
        v[i + 8] = INITIAL[i];
    }
    v[12] ^= total_; // the upper half of the count stays 0
    if (last)
        v[14] = ~v[14];
    for (size_t round = 0; round < ROUNDS; ++round) {
        const uint8_t *order = ORDER[round % 10];
        for (size_t column = 0; column < 4; ++column)
            mix(v[column], v[column + 4], v[column + 8], v[column + 12], words[order[2 * column]],
                words[order[2 * column + 1]]);
        for (size_t diagonal = 0; diagonal < 4; ++diagonal)
            mix(v[diagonal], v[4 + (diagonal + 1) % 4], v[8 + (diagonal + 2) % 4], v[12 + (diagonal + 3) % 4],
                words[order[8 + 2 * diagonal]], words[order[9 + 2 * diagonal]]);
    }
    for (size_t i = 0; i < 8; ++i)
        state_[i] ^= v[i] ^ v[i + 8];
}

std::string to_hex(const Digest::Value &value) {
    constexpr char DIGITS[] = "0123456789abcdef";
    std::string text;
    for (const uint8_t byte : value) {
        text += DIGITS[byte >> 4];
        text += DIGITS[byte & 15];
    }
    return text;
}

} // namespace v2e
