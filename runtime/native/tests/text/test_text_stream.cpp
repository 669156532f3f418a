// Ids back to text, and the strings that end it. Right values are what Python's incremental decoder gives.
#include "tests/check.hpp"
#include "tests/small_tokenizer.hpp"
#include "text/stop_strings.hpp"
#include "text/text_stream.hpp"

using namespace v2e;

namespace {

// Byte by byte, which must give what the bytes give together.
std::string decode(std::string_view bytes) {
    Utf8Decoder single, together;
    std::string text, whole;
    for (const char byte : bytes)
        single.push({&byte, 1}, text);
    single.finish(text);
    together.push(bytes, whole);
    together.finish(whole);
    CHECK(text == whole);
    return text;
}

std::string stopped_text(const std::vector<std::string> &stops, std::string_view text, size_t piece) {
    StopStrings search(stops);
    std::string kept;
    for (size_t begin = 0; begin < text.size(); begin += piece)
        kept += search.push(text.substr(begin, piece));
    return kept + search.finish() + (search.stopped() ? "|" : "");
}

} // namespace

TEST_CASE("bytes that are no character become U+FFFD, one for each beginning of one") {
    const std::string mark = "\xef\xbf\xbd";
    CHECK(decode("a\xc3\xa9\xf0\x9f\x99\x82") == "a\xc3\xa9\xf0\x9f\x99\x82");
    CHECK(decode("\xff") == mark);
    CHECK(decode("\xf0\x9f\x99") == mark); // unfinished
    CHECK(decode("\xf0\x9f\x99"
                 "a") == mark + "a");                    // and ended by another character
    CHECK(decode("\xe0\x80\x80") == mark + mark + mark); // overlong
    CHECK(decode("\xed\xa0\x80") == mark + mark + mark); // a surrogate
    CHECK(decode("\xf4\x90\x80\x80") == mark + mark + mark + mark);
    CHECK(decode("\xe6\x9d\xe6\x9d\xb1") == mark + "\xe6\x9d\xb1");
}

TEST_CASE("a stream gives whole characters and leaves out the end of a turn") {
    const Tokenizer tokenizer = Tokenizer::parse(small::tokenizer_json(), "small.json");
    TextStream stream(tokenizer);
    CHECK(stream.push(0xc3) == "");
    CHECK(stream.push(0xa9) == "\xc3\xa9");
    CHECK(stream.push('<') == "");
    CHECK(stream.push('a') == "<a");
    CHECK(stream.push(262) == "");
    CHECK(stream.push(9999) == "");
    CHECK(stream.push('<') == "");
    CHECK(stream.finish() == "<");
    CHECK(stream.push(0xc3) == "");
    CHECK(stream.finish() == "\xef\xbf\xbd");
}

TEST_CASE("the end of a turn goes where ordinary tokens spell it, and what it leaves is not looked at again") {
    const Tokenizer tokenizer = Tokenizer::parse(small::tokenizer_json(), "small.json");
    TextStream stream(tokenizer);
    std::string text;
    for (const char letter : std::string_view("x<|im_<|im_end|>end|>y<|im_end|>"))
        text += stream.push(static_cast<unsigned char>(letter));
    CHECK(text + stream.finish() == "x<|im_end|>y");
}

TEST_CASE("text ends before the stop string that is complete first") {
    for (const size_t piece : {1, 2, 3, 100}) {
        CHECK(stopped_text({"stop"}, "please stop here", piece) == "please |");
        CHECK(stopped_text({"abcd", "bc"}, "xabcd", piece) == "xa|");
        CHECK(stopped_text({"bc", "abc"}, "xabc", piece) == "x|");
        CHECK(stopped_text({"aab"}, "aaab", piece) == "a|");
        CHECK(stopped_text({"stop"}, "st sto", piece) == "st sto");
        CHECK(stopped_text({}, "anything", piece) == "anything");
    }
}

TEST_CASE("what may become a stop string is held back, and nothing else") {
    StopStrings search({"END", "\xe6\x9d\xb1"});
    CHECK(search.push("an E") == "an ");
    CHECK(search.push("x") == "Ex");
    CHECK(search.push("EN") == "");
    CHECK(search.push("D more") == "");
    CHECK(search.stopped());
    CHECK(search.push("more") == "");
    CHECK(search.finish() == "");
}

TEST_CASE("stop strings that cannot be are refused") {
    CHECK(check::failure_of([] { StopStrings({""}); }));
    CHECK(check::failure_of([] { StopStrings({"\xff"}); }));
    CHECK(check::failure_of([] { StopStrings({std::string(StopStrings::MOST_BYTES + 1, 'a')}); }));
    CHECK(check::failure_of([] { StopStrings(std::vector<std::string>(StopStrings::MOST_STRINGS + 1, "a")); }));
}
