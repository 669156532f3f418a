// What a tokenizer has to know of Unicode, in the version of the reference's library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

// Bits of a property; unicode/make_tables.py has the same.
enum CharacterProperty : uint8_t {
    PROPERTY_LETTER = 1,   // \p{L}
    PROPERTY_NUMBER = 2,   // \p{N}
    PROPERTY_SPACE = 4,    // \s
    PROPERTY_WORD = 8,     // \w
    PROPERTY_UNSTABLE = 16 // NFC may change it, move it, or join it to what stands before it
};

// A character and its length in bytes.
struct Character {
    char32_t code;
    size_t size;
};

// The character at a place of a text that is UTF-8.
inline Character character_at(std::string_view text, size_t position) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[position + i]); };
    const char32_t lead = byte(0);
    if (lead < 0x80)
        return {lead, 1};
    if (lead < 0xe0)
        return {(lead & 0x1f) << 6 | (byte(1) & 0x3fu), 2};
    if (lead < 0xf0)
        return {(lead & 0xf) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu), 3};
    return {(lead & 7) << 18 | (byte(1) & 0x3fu) << 12 | (byte(2) & 0x3fu) << 6 | (byte(3) & 0x3fu), 4};
}

// Where the character begins that ends at a place of a text that is UTF-8.
inline size_t character_before(std::string_view text, size_t position) {
    do
        --position;
    while ((text[position] & 0xc0) == 0x80);
    return position;
}

void append_character(char32_t code, std::string &text);

// The properties of every code point: a table of blocks, of which equal ones are there once.
class PropertyTable {
  public:
    PropertyTable();

    uint8_t operator[](char32_t code) const {
        return bits_[size_t{blocks_[code >> BLOCK_BITS]} << BLOCK_BITS | (code & BLOCK_MASK)];
    }

  private:
    static constexpr size_t CODE_POINTS = 0x110000;
    static constexpr unsigned BLOCK_BITS = 7;
    static constexpr char32_t BLOCK_MASK = (1 << BLOCK_BITS) - 1;

    std::array<uint16_t, (CODE_POINTS >> BLOCK_BITS)> blocks_;
    std::vector<uint8_t> bits_;
};

// Made on first use.
const PropertyTable &character_properties();

// Canonical composition (UAX 15, NFC) of a text that is UTF-8. A text that is in NFC already is returned as it is;
// otherwise the result is written into `buffer` and lives there.
std::string_view normalize_nfc(std::string_view text, std::string &buffer);

} // namespace v2e
