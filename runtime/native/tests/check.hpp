// A test framework of one page: cases register themselves, checks count their failures.
#pragma once

#include "base/error.hpp"

#include <cstdio>
#include <vector>

namespace check {

struct Case {
    const char *name;
    void (*body)();
};

inline std::vector<Case> &cases() {
    static std::vector<Case> all;
    return all;
}

inline int &failures() {
    static int count = 0;
    return count;
}

inline bool enroll(const char *name, void (*body)()) {
    cases().push_back({name, body});
    return true;
}

inline void report(const char *file, int line, const char *text) {
    ++failures();
    std::printf("%s:%d: %s\n", file, line, text);
}

// Whether body throws a Failure of the status whose sentence contains the words.
template <class Body>
bool fails_with(v2e_status status, const char *words, Body &&body) {
    try {
        body();
    } catch (const v2e::Failure &failure) {
        if (failure.status == status && failure.message.find(words) != std::string::npos)
            return true;
        std::printf("  status %d: %s\n", static_cast<int>(failure.status), failure.message.c_str());
    }
    return false;
}

} // namespace check

#define TEST(name)                                                                                                     \
    static void name();                                                                                                \
    static const bool name##_enrolled = check::enroll(#name, name);                                                    \
    static void name()

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            check::report(__FILE__, __LINE__, #condition);                                                             \
    } while (false)

#define CHECK_FAILS(status, words, ...)                                                                                \
    do {                                                                                                               \
        if (!check::fails_with(status, words, [&] { __VA_ARGS__; }))                                                   \
            check::report(__FILE__, __LINE__, "another failure, or none, instead of: " #status);                       \
    } while (false)
