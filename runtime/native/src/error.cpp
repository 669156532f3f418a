#include "error.hpp"

#include <cstdarg>
#include <cstdio>

namespace v2e {
namespace {

// A fixed buffer: storing the text of an out-of-memory error must not allocate.
constexpr size_t MESSAGE_BYTES = 1024;
thread_local char last_message[MESSAGE_BYTES] = "";

} // namespace

void fail(v2e_status status, const char *format, ...) {
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    throw Failure{status, message};
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

extern "C" const char *v2e_version(void) {
    return V2E_VERSION;
}
