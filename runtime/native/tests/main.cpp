// valley2_tests [--test-case=PATTERN]: runs the cases, or those whose name matches a pattern such as "*sampler*".
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tests/check.hpp"

REGISTER_EXCEPTION_TRANSLATOR(const v2e::Failure &failure) {
    return ("status " + std::to_string(failure.status) + ": " + failure.message).c_str();
}
