#include "base/json_text.hpp"

namespace v2e {

std::string json_quoted(std::string_view text) {
    constexpr char DIGITS[] = "0123456789abcdef";
    std::string quoted = "\"";
    for (const char byte : text) {
        const auto code = static_cast<unsigned char>(byte);
        if (code < 0x20) {
            quoted += "\\u00";
            quoted += DIGITS[code >> 4];
            quoted += DIGITS[code & 15];
            continue;
        }
        if (byte == '"' || byte == '\\')
            quoted += '\\';
        quoted += byte;
    }
    return quoted += '"';
}

} // namespace v2e
