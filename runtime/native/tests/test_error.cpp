// The C boundary: exceptions become statuses, older callers keep working.
#include "check.hpp"

#include <stdexcept>
#include <thread>

using namespace v2e;

TEST(error_guard_turns_exceptions_into_statuses) {
    CHECK(guard([] {}) == V2E_OK);
    CHECK(guard([] { fail(V2E_ERROR_BUNDLE, "The file '%s' lacks %d bytes.", "x", 3); }) == V2E_ERROR_BUNDLE);
    CHECK(std::string(v2e_last_error()) == "The file 'x' lacks 3 bytes.");
    CHECK(guard([] { throw std::bad_alloc(); }) == V2E_ERROR_BUDGET);
    CHECK(guard([] { throw std::runtime_error("surprise"); }) == V2E_ERROR_INTERNAL);
    CHECK(std::string(v2e_last_error()) == "surprise");
    CHECK(guard([] { throw 1; }) == V2E_ERROR_INTERNAL);
}

TEST(error_text_belongs_to_its_thread) {
    set_last_error("mine");
    std::thread([] {
        CHECK(std::string(v2e_last_error()).empty());
        set_last_error("theirs");
    }).join();
    CHECK(std::string(v2e_last_error()) == "mine");
}

TEST(error_options_of_an_older_caller_are_completed_with_zeros) {
    v2e_model_options given{offsetof(v2e_model_options, activations), 2, V2E_ISA_PORTABLE, 77};
    const v2e_model_options options = read_options(&given);
    CHECK(options.threads == 2 && options.isa == V2E_ISA_PORTABLE && options.activations == 0);
    CHECK(options.struct_size == sizeof options);
    CHECK_FAILS(V2E_ERROR_INPUT, "struct_size", read_options<v2e_model_options>(nullptr));
    given.struct_size = 0;
    CHECK_FAILS(V2E_ERROR_INPUT, "struct_size", read_options(&given));
}
