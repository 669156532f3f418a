#include "base/error.hpp"

#include <cstdarg>
#include <cstdio>

namespace v2e {
namespace {

// A fixed buffer: storing the text of an out-of-memory error must not allocate.
constexpr size_t MESSAGE_BYTES = 1024;
thread_local char last_message[MESSAGE_BYTES] = "";

// What is left of the last character of a UTF-8 text that was cut off goes as well.
void cut_character(char *text, size_t size) {
    size_t rest = 0; // bytes that follow the one that a character begins with
    while (rest < 3 && rest < size && (text[size - 1 - rest] & 0xc0) == 0x80)
        ++rest;
    if (rest == size)
        return;
    const auto lead = static_cast<unsigned char>(text[size - 1 - rest]);
    const size_t wanted = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (rest < wanted)
        text[size - 1 - rest] = '\0';
}

} // namespace

void fail(v2e_status status, const char *format, ...) {
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    const int length = std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length >= static_cast<int>(sizeof message))
        cut_character(message, sizeof message - 1);
    throw Failure{status, message};
}

void require_zero_tail(const void *given, size_t given_size, size_t known_size) {
    constexpr size_t MOST_STRUCT_BYTES = 1 << 14; // many times what the largest struct has
    if (given_size > MOST_STRUCT_BYTES)
        fail(V2E_ERROR_INPUT, "A struct_size is %zu, which no version of the header has.", given_size);
    const auto *bytes = static_cast<const unsigned char *>(given);
    for (size_t i = known_size; i < given_size; ++i)
        if (bytes[i] != 0)
            fail(V2E_ERROR_INPUT,
                 "An options struct asks for something that release %s of the library does not know; install the one "
                 "that the header belongs to.",
                 V2E_VERSION);
}

void set_last_error(const char *message) noexcept {
    std::snprintf(last_message, sizeof last_message, "%s", message);
}

const char *last_error() noexcept {
    return last_message;
}

} // namespace v2e

extern "C" const char *v2e_last_error(void) {
    return v2e::last_error();
}

extern "C" v2e_status v2e_backend_fail(v2e_status status, const char *sentence) {
    v2e::set_last_error(sentence == nullptr ? "" : sentence);
    return status;
}

extern "C" const char *v2e_version(void) {
    return V2E_VERSION;
}
