// doctest, with what it has to know of the core: failures, and the vectors that tests compare.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace check {

// The failure that the body throws.
template <class Body>
std::optional<v2e::Failure> failure_of(Body &&body) {
    try {
        body();
    } catch (const v2e::Failure &failure) {
        return failure;
    }
    return std::nullopt;
}

} // namespace check

namespace doctest {

template <class T>
struct StringMaker<std::vector<T>> {
    static String convert(const std::vector<T> &values) {
        constexpr size_t MOST = 50; // values
        std::ostringstream text;
        text << '{';
        for (size_t i = 0; i < values.size() && i < MOST; ++i)
            text << (i == 0 ? "" : ", ") << values[i];
        text << (values.size() > MOST ? ", ...} of " + std::to_string(values.size()) : "}");
        return text.str().c_str();
    }
};

} // namespace doctest

// The statements must throw a Failure of the status whose sentence contains the words.
#define CHECK_FAILS(expected_status, words, ...)                                                                       \
    do {                                                                                                               \
        const std::optional<v2e::Failure> failure_ = check::failure_of([&] { __VA_ARGS__; });                          \
        CHECK_MESSAGE(failure_.has_value(), "nothing failed: " #__VA_ARGS__);                                          \
        if (failure_) {                                                                                                \
            INFO(#__VA_ARGS__);                                                                                        \
            CHECK(failure_->status == (expected_status));                                                              \
            CHECK(doctest::String(failure_->message.c_str()) == doctest::Contains(words));                             \
        }                                                                                                              \
    } while (false)
