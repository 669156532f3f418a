// Characters and NFC. Right values are from the Unicode Standard's own examples (UAX 15, sections 1.2 and 3).
#include "tests/check.hpp"
#include "text/unicode.hpp"

using namespace v2e;

namespace {

std::string nfc(std::string_view text) {
    std::string buffer;
    return std::string(normalize_nfc(text, buffer));
}

} // namespace

TEST_CASE("every code point is written and read back") {
    for (char32_t code = 0; code < 0x110000; ++code) {
        if (code >= 0xd800 && code < 0xe000)
            continue;
        std::string text;
        append_character(code, text);
        const Character read = character_at(text, 0);
        if (read.code != code || read.size != text.size() || character_before(text, text.size()) != 0)
            FAIL("code point ", static_cast<uint32_t>(code));
    }
}

TEST_CASE("properties of characters are those of Unicode") {
    const PropertyTable &properties = character_properties();
    CHECK(properties[U'a'] == (PROPERTY_LETTER | PROPERTY_WORD));
    CHECK(properties[U'7'] == (PROPERTY_NUMBER | PROPERTY_WORD));
    CHECK(properties[U' '] == PROPERTY_SPACE);
    CHECK(properties[U'!'] == 0);
    CHECK(properties[0x6771] == (PROPERTY_LETTER | PROPERTY_WORD)); // an ideograph
    CHECK(properties[0x2167] == (PROPERTY_NUMBER | PROPERTY_WORD)); // the Roman eight, a letter number
    CHECK((properties[0x301] & (PROPERTY_WORD | PROPERTY_UNSTABLE)) == (PROPERTY_WORD | PROPERTY_UNSTABLE));
    CHECK(properties[0x10ffff] == 0);
}

TEST_CASE("NFC composes, orders and leaves alone") {
    CHECK(nfc("") == "");
    CHECK(nfc("plain \xe6\x9d\xb1") == "plain \xe6\x9d\xb1");
    CHECK(nfc("e\xcc\x81") == "\xc3\xa9");                  // e and an acute
    CHECK(nfc("\xe2\x84\xab") == "\xc3\x85");               // the sign of the angstrom
    CHECK(nfc("\xe2\x84\xa6 x") == "\xce\xa9 x");           // the sign of the ohm
    CHECK(nfc("q\xcc\x87\xcc\xa3") == "q\xcc\xa3\xcc\x87"); // a dot above and a dot below change places
    CHECK(nfc("\xe1\xb8\x8b\xcc\xa3") == "\xe1\xb8\x8d\xcc\x87");
    CHECK(nfc("\xef\xac\x81") == "\xef\xac\x81"); // a ligature is compatible, and not canonical
    CHECK(nfc("\xcc\x81 a") == "\xcc\x81 a");     // a mark without a letter
}

TEST_CASE("NFC composes Hangul by arithmetic") {
    CHECK(nfc("\xe1\x84\x80\xe1\x85\xa1") == "\xea\xb0\x80");             // an initial and a medial
    CHECK(nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8") == "\xea\xb0\x81"); // and a final
    CHECK(nfc("\xea\xb0\x80\xe1\x86\xa8") == "\xea\xb0\x81");             // a syllable and a final
    CHECK(nfc("\xea\xb0\x80\xe1\x86\xa7") == "\xea\xb0\x80\xe1\x86\xa7"); // U+11A7 is no final
}

TEST_CASE("NFC changes nothing outside the places where it has to") {
    std::string text, expected;
    for (int i = 0; i < 1000; ++i) {
        text += "word e\xcc\x81 ";
        expected += "word \xc3\xa9 ";
    }
    CHECK(nfc(text) == expected);
}
