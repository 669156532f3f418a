// How the core fails: one exception type inside, one status and one sentence outside.
#pragma once

#include "valley2.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace v2e {

// The only type that the core throws.
struct Failure {
    v2e_status status;
    std::string message; // one sentence: what, where, what to do about it
};

// Throws a Failure with a printf-style sentence.
#if defined(__GNUC__)
[[noreturn]] __attribute__((format(printf, 2, 3)))
#else
[[noreturn]]
#endif
void fail(v2e_status status, const char *format, ...);

void set_last_error(const char *message) noexcept;
const char *last_error() noexcept;

// Whether a value may be read where the pointer points.
template <class Value>
bool is_aligned(const Value *pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % alignof(Value) == 0;
}

// Runs body at the C boundary: every exception becomes a status, its text the thread's last error.
template <class Body>
v2e_status guard(Body &&body) noexcept {
    try {
        std::forward<Body>(body)();
        return V2E_OK;
    } catch (const Failure &failure) {
        set_last_error(failure.message.c_str());
        return failure.status;
    } catch (const std::bad_alloc &) {
        set_last_error("The machine has not enough memory for this call.");
        return V2E_ERROR_BUDGET;
    } catch (const std::length_error &) { // a container would be larger than any memory
        set_last_error("The machine has not enough memory for this call.");
        return V2E_ERROR_BUDGET;
    } catch (const std::system_error &) { // the system does not start a thread
        set_last_error("The system refuses a thread that this call needs; ask for fewer.");
        return V2E_ERROR_BUDGET;
    } catch (const std::exception &error) {
        set_last_error(error.what());
        return V2E_ERROR_INTERNAL;
    } catch (...) {
        set_last_error("The library met an unknown error.");
        return V2E_ERROR_INTERNAL;
    }
}

// Refuses a struct of a newer caller that asks for something that this library does not know.
void require_zero_tail(const void *given, size_t given_size, size_t known_size);

// A caller's options struct in the library's size: the fields that an older caller does not know are zero.
template <class Options>
Options read_options(const Options *given) {
    if (given == nullptr || !is_aligned(given) || given->struct_size < sizeof given->struct_size)
        fail(V2E_ERROR_INPUT, "An options struct is missing, is not aligned, or its struct_size is not set.");
    Options options{};
    require_zero_tail(given, given->struct_size, sizeof options);
    const size_t size = given->struct_size < sizeof options ? given->struct_size : sizeof options;
    std::memcpy(&options, given, size);
    options.struct_size = sizeof options;
    return options;
}

} // namespace v2e
