// UTF-8, as far as the core looks into texts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace v2e {

// Bytes of the character that the text begins with; 0 when it begins with none. Overlong forms, surrogates and code
// points above U+10FFFF are none.
size_t utf8_character(std::string_view text);
// Bytes of the whole characters that the text begins with: all of them when it is UTF-8.
size_t utf8_prefix(std::string_view text);
bool is_utf8(std::string_view text);

// A name from a file, for a message: short, on one line, and nothing in it that a terminal obeys.
std::string shown(std::string_view name);

} // namespace v2e
