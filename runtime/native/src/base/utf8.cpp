#include "base/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t MOST_SHOWN = 80; // bytes of a name

// The control characters of ASCII and, in two bytes, those of Latin-1.
bool is_control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0);
}

} // namespace

size_t utf8_character(std::string_view text) {
    if (text.empty())
        return 0;
    const auto lead = static_cast<unsigned char>(text[0]);
    if (lead < 0x80)
        return 1;
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || length > text.size())
        return 0;
    uint32_t code = lead & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        if ((byte & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (byte & 0x3fu);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    return overlong || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff ? 0 : length;
}

size_t utf8_prefix(std::string_view text) {
    constexpr uint64_t HIGH_BITS = 0x8080808080808080;
    size_t position = 0;
    while (position < text.size()) {
        uint64_t word = HIGH_BITS;
        if (text.size() - position >= sizeof word)
            std::memcpy(&word, text.data() + position, sizeof word);
        if ((word & HIGH_BITS) == 0) {
            position += sizeof word;
            continue;
        }
        const size_t length = utf8_character(text.substr(position));
        if (length == 0)
            break;
        position += length;
    }
    return position;
}

bool is_utf8(std::string_view text) {
    return utf8_prefix(text) == text.size();
}

std::string shown(std::string_view name) {
    std::string result;
    while (!name.empty()) {
        const size_t length = utf8_character(name);
        if (result.size() + length > MOST_SHOWN)
            return result + "...";
        const bool plain = length > 0 && !is_control(name.substr(0, length));
        result += plain ? name.substr(0, length) : std::string_view("?");
        name.remove_prefix(length > 0 ? length : 1);
    }
    return result;
}

} // namespace v2e
