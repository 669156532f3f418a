// valley2_tests [WORD]: runs the cases, or those whose name contains the word.
#include "tests/check.hpp"

#include <cstring>

int main(int argc, char **argv) {
    int ran = 0;
    for (const check::Case &test : check::cases()) {
        if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr)
            continue;
        const int before = check::failures();
        try {
            test.body();
        } catch (const v2e::Failure &failure) {
            check::report(test.name, 0, failure.message.c_str());
        }
        ++ran;
        std::printf("%s %s\n", check::failures() == before ? "ok  " : "FAIL", test.name);
    }
    std::printf("%d cases, %d failed checks\n", ran, check::failures());
    return ran > 0 && check::failures() == 0 ? 0 : 1;
}
