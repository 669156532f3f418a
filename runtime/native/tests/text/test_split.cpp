// The cut of a text into words: every alternative of Qwen2's pattern, and what stands between two.
#include "tests/check.hpp"
#include "text/split.hpp"

using namespace v2e;

namespace {

std::vector<std::string> words(std::string_view text) {
    std::vector<std::string> found;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = next_word(text, begin);
        REQUIRE(end > begin);
        found.emplace_back(text.substr(begin, end - begin));
        begin = end;
    }
    return found;
}

using Words = std::vector<std::string>;

} // namespace

TEST_CASE("words take the character before them") {
    CHECK(words("the cat") == Words{"the", " cat"});
    CHECK(words("(cat)") == Words{"(cat", ")"});
    CHECK(words("\tcat") == Words{"\tcat"});
    CHECK(words("\ncat") == Words{"\n", "cat"});
}

TEST_CASE("contractions are words of their own") {
    CHECK(words("don't") == Words{"don", "'t"});
    CHECK(words("WE'LL'RE") == Words{"WE", "'LL", "'RE"});
    CHECK(words("it'\xc5\xbf") == Words{"it", "'\xc5\xbf"}); // the long s
    CHECK(words("'x 'lx") == Words{"'x", " '", "lx"});
    CHECK(words("a'") == Words{"a", "'"});
}

TEST_CASE("digits stand one by one") {
    CHECK(words("a 12") == Words{"a", " ", "1", "2"});
}

TEST_CASE("symbols take a space before them and line breaks behind them") {
    CHECK(words("x !!\r\n\ny") == Words{"x", " !!\r\n\n", "y"});
    CHECK(words("\xcc\x81!") == Words{"\xcc\x81!"});
}

TEST_CASE("spaces end at the last line break, or leave one to the word behind them") {
    CHECK(words(" \n \n  x") == Words{" \n \n", " ", " x"});
    CHECK(words("a   b") == Words{"a", "  ", " b"});
    CHECK(words("a   ") == Words{"a", "   "});
    CHECK(words("a  1") == Words{"a", " ", " ", "1"});
    CHECK(words("\xe3\x80\x80\xe3\x80\x80x") == Words{"\xe3\x80\x80", "\xe3\x80\x80x"});
}
