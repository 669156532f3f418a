// BLAKE2b with 32 bytes of result (RFC 7693): tells contents apart, by accident or by intent. Faster than SHA-256 where
// no instruction helps.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace v2e {

class Digest {
  public:
    static constexpr size_t BYTES = 32;
    using Value = std::array<uint8_t, BYTES>;

    Digest();
    void add(const void *data, size_t bytes);
    // Returns the digest of all bytes that were added. Nothing may be added afterwards.
    Value finish();

  private:
    static constexpr size_t BLOCK = 128; // bytes

    void compress(const uint8_t *block, bool last);

    std::array<uint64_t, 8> state_;
    std::array<uint8_t, BLOCK> buffer_;
    size_t buffered_ = 0; // bytes of buffer_; a full one waits, because the last block is special
    uint64_t total_ = 0;  // bytes that were compressed
};

// 64 hexadecimal digits.
std::string to_hex(const Digest::Value &value);

} // namespace v2e
