// SHA-256 (FIPS 180-4), with the processor's own instructions where it has them. A manifest names files by it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace v2e {

class Sha256 {
  public:
    static constexpr size_t BYTES = 32;
    using Value = std::array<uint8_t, BYTES>;
    using State = std::array<uint32_t, 8>;

    // with_instructions: false computes as a processor without them does, for tests.
    explicit Sha256(bool with_instructions = true);
    void add(const void *data, size_t bytes);
    // Returns the digest of all bytes that were added. Nothing may be added afterwards.
    Value finish();

  private:
    static constexpr size_t BLOCK = 64; // bytes

    State state_;
    bool with_instructions_;
    std::array<uint8_t, BLOCK> buffer_;
    size_t buffered_ = 0; // bytes of buffer_
    uint64_t total_ = 0;  // bytes that were added
};

// 64 hexadecimal digits.
std::string sha256_hex(const Sha256::Value &value);

// The constants of the rounds: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
extern const std::array<uint32_t, 64> SHA256_ROUNDS;

// sha256_shani.cpp: whether the processor has the instructions, and `count` blocks of 64 bytes with them.
bool has_sha256_instructions();
void sha256_with_instructions(Sha256::State &state, const uint8_t *blocks, size_t count);

} // namespace v2e
