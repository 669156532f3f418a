#include "text/split.hpp"

#include "text/unicode.hpp"

#include <cstdint>

namespace v2e {
namespace {

struct Place {
    Character character;
    uint8_t properties;

    bool is(uint8_t wanted) const { return (properties & wanted) != 0; }
    bool newline() const { return character.code == '\r' || character.code == '\n'; }
};

Place place_at(std::string_view text, size_t position, const PropertyTable &properties) {
    const Character character = character_at(text, position);
    return {character, properties[character.code]};
}

char small(std::string_view text, size_t position) {
    const char letter = position < text.size() ? text[position] : '\0';
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

// Bytes of the (?i:'s|'t|'re|'ve|'m|'ll|'d) that begins with the apostrophe at a place; 0: there is none.
size_t contraction_size(std::string_view text, size_t begin) {
    const char first = small(text, begin + 1), second = small(text, begin + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return 2;
    if (text.substr(begin + 1, 2) == "\xc5\xbf") // U+017F, the long s
        return 3;
    return (second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l') ? 3 : 0;
}

size_t skip_letters(std::string_view text, size_t position, const PropertyTable &properties) {
    while (position < text.size()) {
        const Place place = place_at(text, position, properties);
        if (!place.is(PROPERTY_LETTER))
            break;
        position += place.character.size;
    }
    return position;
}

// [^\s\p{L}\p{N}]*
size_t skip_symbols(std::string_view text, size_t position, const PropertyTable &properties) {
    while (position < text.size()) {
        const Place place = place_at(text, position, properties);
        if (place.is(PROPERTY_SPACE | PROPERTY_LETTER | PROPERTY_NUMBER))
            break;
        position += place.character.size;
    }
    return position;
}

// \s*[\r\n]+|\s+(?!\S)|\s+: up to the last line break; without one all spaces, but for the last where a word follows.
size_t space_end(std::string_view text, size_t begin, const PropertyTable &properties) {
    size_t position = begin, last = begin, line_end = begin;
    while (position < text.size()) {
        const Place place = place_at(text, position, properties);
        if (!place.is(PROPERTY_SPACE))
            break;
        last = position;
        position += place.character.size;
        if (place.newline())
            line_end = position;
    }
    if (line_end > begin)
        return line_end;
    return position < text.size() && last > begin ? last : position;
}

} // namespace

size_t next_word(std::string_view text, size_t begin) {
    const PropertyTable &properties = character_properties();
    const Place first = place_at(text, begin, properties);
    const size_t next = begin + first.character.size;
    if (first.is(PROPERTY_LETTER))
        return skip_letters(text, next, properties);
    if (first.is(PROPERTY_NUMBER))
        return next;
    if (first.character.code == '\'')
        if (const size_t size = contraction_size(text, begin); size > 0)
            return begin + size;
    if (!first.newline() && next < text.size() && place_at(text, next, properties).is(PROPERTY_LETTER))
        return skip_letters(text, next, properties);
    const size_t symbols = first.character.code == ' ' ? next : begin;
    size_t end = skip_symbols(text, symbols, properties);
    if (end == symbols)
        return space_end(text, begin, properties);
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n'))
        ++end;
    return end;
}

} // namespace v2e
