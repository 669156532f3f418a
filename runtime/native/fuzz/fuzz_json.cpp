// JSON: the input is the text. What is accepted has no key twice and at most 64 levels, reads the same when it is
// written out again, and takes memory in proportion to the text.
#include "base/json.hpp"
#include "fuzz/fuzz.hpp"

#include <set>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/allocator_interface.h>
#define V2E_COUNTS_MEMORY
#endif
#endif

namespace {

using v2e::Json;

size_t allocated_bytes() {
#if defined(V2E_COUNTS_MEMORY)
    return __sanitizer_get_current_allocated_bytes();
#else
    return 0;
#endif
}

void write_string(const std::string &value, std::string &text) {
    text += '"';
    for (const char letter : value) {
        char escape[8];
        const auto byte = static_cast<unsigned char>(letter);
        std::snprintf(escape, sizeof escape, byte < 0x20 || byte == '"' || byte == '\\' ? "\\u%04x" : "%c", byte);
        text += byte == 0 ? "\\u0000" : escape;
    }
    text += '"';
}

// A number that the reader knows by its digits, another one by the shortest text that gives the same double.
void write_number(const Json &value, std::string &text) {
    char digits[40];
    try {
        std::snprintf(digits, sizeof digits, "%llu", static_cast<unsigned long long>(value.unsigned_integer()));
    } catch (const v2e::Failure &) {
        std::snprintf(digits, sizeof digits, "%.17e", value.number());
    }
    text += digits;
}

void write(const Json &value, int depth, std::string &text) {
    MUST(depth <= 65);
    switch (value.kind()) {
    case Json::Kind::null:
        text += "null";
        break;
    case Json::Kind::boolean:
        text += value.boolean() ? "true" : "false";
        break;
    case Json::Kind::number:
        write_number(value, text);
        break;
    case Json::Kind::string:
        write_string(value.string(), text);
        break;
    case Json::Kind::array:
        text += '[';
        for (const Json &item : value.items()) {
            text += text.back() == '[' ? "" : ",";
            write(item, depth + 1, text);
        }
        text += ']';
        break;
    case Json::Kind::object: {
        const std::vector<std::string> keys = value.keys();
        MUST(std::set<std::string>(keys.begin(), keys.end()).size() == keys.size());
        text += '{';
        for (const std::string &key : keys) {
            text += text.back() == '{' ? "" : ",";
            write_string(key, text);
            text += ':';
            MUST(value.contains(key));
            write(value.at(key), depth + 1, text);
        }
        text += '}';
    }
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    std::string written, again;
    try {
        const size_t before = allocated_bytes();
        const Json value = Json::parse(text, "the input");
        MUST(allocated_bytes() - before <= 600 * size + 4096);
        write(value, 0, written);
    } catch (const v2e::Failure &failure) {
        MUST(failure.status == V2E_ERROR_BUNDLE && !failure.message.empty());
        return 0;
    }
    write(Json::parse(written, "what was written"), 0, again);
    MUST(written == again);
    return 0;
}
