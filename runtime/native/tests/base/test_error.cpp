// The C boundary: exceptions become statuses, older callers keep working.
#include "base/utf8.hpp"
#include "tests/check.hpp"
#include "valley2_parts.h"

#include <stdexcept>
#include <thread>

using namespace v2e;

TEST_CASE("the guard turns exceptions into statuses") {
    CHECK(guard([] {}) == V2E_OK);
    CHECK(guard([] { fail(V2E_ERROR_BUNDLE, "The file '%s' lacks %d bytes.", "x", 3); }) == V2E_ERROR_BUNDLE);
    CHECK(std::string(v2e_last_error()) == "The file 'x' lacks 3 bytes.");
    CHECK(guard([] { throw std::bad_alloc(); }) == V2E_ERROR_BUDGET);
    CHECK(guard([] { throw std::length_error("a vector"); }) == V2E_ERROR_BUDGET);
    CHECK(std::string(v2e_last_error()).find("not enough memory") != std::string::npos);
    CHECK(guard([] { throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again)); }) ==
          V2E_ERROR_BUDGET);
    CHECK(guard([] { throw std::runtime_error("surprise"); }) == V2E_ERROR_INTERNAL);
    CHECK(std::string(v2e_last_error()) == "surprise");
    CHECK(guard([] { throw 1; }) == V2E_ERROR_INTERNAL);
}

TEST_CASE("an error that is cut stays UTF-8") {
    for (const char *character : {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"})
        for (size_t before = 0; before < 4; ++before) {
            std::string text(before, '.');
            while (text.size() < 3000)
                text += character;
            guard([&] { fail(V2E_ERROR_INPUT, "%s", text.c_str()); });
            CHECK(is_utf8(v2e_last_error()));
            CHECK(text.rfind(v2e_last_error(), 0) == 0);
            CHECK(std::string(v2e_last_error()).size() > 1000);
        }
}

TEST_CASE("names from outside are shown short and harmless") {
    CHECK(shown("plain \xc3\xa9") == "plain \xc3\xa9");
    CHECK(shown("a\x1b[2Jb\nc\x7f"
                "d\xc2\x9b"
                "e\xff") == "a?[2Jb?c?d?e?");
    CHECK(shown(std::string(500, 'n')) == std::string(80, 'n') + "...");
}

TEST_CASE("an error's text belongs to its thread") {
    set_last_error("mine");
    std::thread([] {
        CHECK(std::string(v2e_last_error()).empty());
        set_last_error("theirs");
    }).join();
    CHECK(std::string(v2e_last_error()) == "mine");
}

TEST_CASE("options of an older caller are completed with zeros") {
    v2e_decoder_options given{};
    given.struct_size = offsetof(v2e_decoder_options, activations);
    given.threads = 2;
    given.isa = V2E_ISA_PORTABLE;
    given.activations = 77;
    const v2e_decoder_options options = read_options(&given);
    CHECK(options.threads == 2);
    CHECK(options.isa == V2E_ISA_PORTABLE);
    CHECK(options.activations == 0);
    CHECK(options.struct_size == sizeof options);
    CHECK_FAILS(V2E_ERROR_INPUT, "struct_size", read_options<v2e_decoder_options>(nullptr));
    given.struct_size = 0;
    CHECK_FAILS(V2E_ERROR_INPUT, "struct_size", read_options(&given));
}

TEST_CASE("options of a newer caller are accepted while what is new in them is zero") {
    struct Newer {
        v2e_decoder_options known;
        uint64_t invented;
    } newer{};
    newer.known.struct_size = sizeof newer;
    newer.known.threads = 3;
    CHECK(read_options(&newer.known).threads == 3);
    newer.invented = 1;
    CHECK_FAILS(V2E_ERROR_INPUT, "does not know", read_options(&newer.known));
    newer.known.struct_size = SIZE_MAX;
    CHECK_FAILS(V2E_ERROR_INPUT, "which no version of the header has", read_options(&newer.known));
}
