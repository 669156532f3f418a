// Texts as JSON has them.
#pragma once

#include <string>
#include <string_view>

namespace v2e {

// The text between quotes, with what JSON does not allow there escaped (RFC 8259, section 7). UTF-8 stays UTF-8.
std::string json_quoted(std::string_view text);

} // namespace v2e
