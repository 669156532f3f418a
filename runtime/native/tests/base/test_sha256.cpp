// SHA-256 against the examples of FIPS 180-4, and with the processor's instructions against without.
#include "base/sha256.hpp"
#include "tests/check.hpp"

#include <string>
#include <vector>

using namespace v2e;

namespace {

std::string digest_of(const std::string &text, bool with_instructions) {
    Sha256 digest(with_instructions);
    digest.add(text.data(), text.size());
    return sha256_hex(digest.finish());
}

} // namespace

TEST_CASE("sha256 of the standard's examples") {
    for (const bool with_instructions : {false, true}) {
        CHECK(digest_of("", with_instructions) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        CHECK(digest_of("abc", with_instructions) ==
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        CHECK(digest_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", with_instructions) ==
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        CHECK(digest_of(std::string(1000000, 'a'), with_instructions) ==
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

TEST_CASE("sha256 is the same however the bytes come, with instructions and without") {
    std::string text;
    for (size_t size = 0; size < 300; ++size) {
        Sha256 pieces;
        for (size_t begin = 0; begin < size; begin += 1 + begin % 67)
            pieces.add(text.data() + begin, std::min(size - begin, 1 + begin % 67));
        CHECK(sha256_hex(pieces.finish()) == digest_of(text, false));
        text += static_cast<char>(size * 37 + 11);
    }
}
