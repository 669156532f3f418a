// The tokenizer on a vocabulary that can be reckoned by hand, and what it refuses.
#include "tests/check.hpp"
#include "tests/small_tokenizer.hpp"
#include "text/tokenizer.hpp"

using namespace v2e;

namespace {

using Ids = std::vector<int32_t>;

Tokenizer small_tokenizer() {
    return Tokenizer::parse(small::tokenizer_json(), "small.json");
}

Ids text_ids(const Tokenizer &tokenizer, std::string_view text) {
    Ids ids;
    tokenizer.encode_text(text, ids);
    return ids;
}

Ids control_ids(std::string_view text) {
    Ids ids;
    small_tokenizer().encode_with_controls(text, ids);
    return ids;
}

Tokenizer with_merges(const std::string &vocabulary, const std::string &merges) {
    return Tokenizer::parse(small::tokenizer_json(vocabulary, merges, "[]"), "small.json");
}

std::string refusal(const std::string &content) {
    const auto failure = check::failure_of([&] { Tokenizer::parse(content, "small.json"); });
    REQUIRE(failure);
    CHECK(failure->status == V2E_ERROR_BUNDLE);
    return failure->message;
}

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("merges go by their rank, then from the left") {
    const Tokenizer tokenizer = small_tokenizer();
    CHECK(text_ids(tokenizer, "the") == Ids{257});
    CHECK(text_ids(tokenizer, "he") == Ids{258});
    CHECK(text_ids(tokenizer, "thing") == Ids{256, 260});
    CHECK(text_ids(tokenizer, "the the") == Ids{257, ' ', 257});
    CHECK(text_ids(tokenizer, "") == Ids{});
    CHECK(text_ids(with_merges(R"({"a":0,"aa":1})", R"(["a a"])"), "aaa") == Ids{1, 0});
}

TEST_CASE("a byte without a token is left out and its neighbours are joined") {
    CHECK(text_ids(with_merges(R"({"a":0,"b":1,"ab":2})", R"(["a b"])"), "a1b") == Ids{0, 1});
    CHECK(text_ids(with_merges(R"({"a":0,"b":1,"ab":2})", R"(["a b"])"), "axb") == Ids{2});
}

TEST_CASE("of two merges of a pair the later one counts") {
    const char *vocabulary = R"({"a":0,"b":1,"c":2,"ab":3,"bc":4})";
    CHECK(text_ids(with_merges(vocabulary, R"(["a b","b c"])"), "abc") == Ids{3, 2});
    CHECK(text_ids(with_merges(vocabulary, R"(["a b","b c","a b"])"), "abc") == Ids{0, 4});
}

TEST_CASE("a long word takes time in proportion to its length and its logarithm") {
    const std::string word(1 << 20, 'a');
    const Tokenizer tokenizer = with_merges(R"({"a":0,"aa":1,"aaaa":2})", R"(["a a","aa aa"])");
    CHECK(text_ids(tokenizer, word) == Ids(word.size() / 4, 2));
}

TEST_CASE("look-alikes of control tokens stay text or become control tokens") {
    const Tokenizer tokenizer = small_tokenizer();
    CHECK(text_ids(tokenizer, "<w>") == Ids{'<', 'w', '>'});
    CHECK(control_ids("a<w> <w>") == Ids{'a', '<', 'w', '>', ' ', 265});
    CHECK(control_ids("a  <l>  b") == Ids{'a', 266, ' ', ' ', 'b'});
    CHECK(control_ids("a  <r>  b") == Ids{'a', ' ', ' ', 267, 'b'});
    CHECK(control_ids("<|im_end|><|im_") == Ids{262, '<', '|', 'i', 'm', '_'});
    CHECK(control_ids("\xc3\xa9!e\xcc\x81!") == Ids{268, 268});
}

TEST_CASE("spaces that control tokens take are looked at once") {
    const std::string controls = R"([{"id":261,"content":" ","lstrip":true,"rstrip":true}])";
    const Tokenizer tokenizer =
        Tokenizer::parse(small::tokenizer_json(small::vocabulary(), small::merges(), controls), "small.json");
    Ids ids;
    tokenizer.encode_with_controls(std::string(1 << 20, ' '), ids);
    CHECK(ids == Ids{261});
}

TEST_CASE("tokens are found by their ids and contents") {
    const Tokenizer tokenizer = small_tokenizer();
    CHECK(tokenizer.largest_id() == 268);
    CHECK(tokenizer.token_bytes(0) == std::string_view("\0", 1));
    CHECK(tokenizer.token_bytes(257) == "the");
    CHECK(tokenizer.token_bytes(262) == "<|im_end|>");
    CHECK(tokenizer.token_bytes(-1).empty());
    CHECK(tokenizer.token_bytes(269).empty());
    CHECK(tokenizer.control_id("<im_end>") == 264);
    CHECK(!tokenizer.find_control("<audio>"));
    const auto failure = check::failure_of([&] { tokenizer.control_id("<audio>"); });
    REQUIRE(failure);
    CHECK(failure->message == "small.json has no token <audio>.");
}

TEST_CASE("a text that is not UTF-8 is refused and nothing is appended") {
    Ids ids;
    for (const std::string_view text : {"ab\xff", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "e\xcc"}) {
        const auto failure = check::failure_of([&] { small_tokenizer().encode_text(text, ids); });
        REQUIRE(failure);
        CHECK(failure->status == V2E_ERROR_INPUT);
        CHECK(contains(failure->message, "not UTF-8 at byte"));
    }
    CHECK(ids.empty());
}

TEST_CASE("a definition that is no Qwen2 tokenizer is refused with what is wrong") {
    const auto with = [](const std::string &vocabulary, const std::string &merges, const std::string &controls) {
        return refusal(small::tokenizer_json(vocabulary, merges, controls));
    };
    CHECK(contains(with(R"({"a":0.5})", "[]", "[]"), "a token id is no whole number"));
    CHECK(contains(with(R"({"a":1})", "[]", "[]"), "not the whole numbers from 0 on"));
    CHECK(contains(with(R"({"a":99999999999999999999999})", "[]", "[]"), "not the whole numbers from 0 on"));
    CHECK(contains(with(R"({"a":0,"a":1})", "[]", "[]"), "stands twice"));
    CHECK(contains(with(R"({"a b":0})", "[]", "[]"), "not of bytes: it has the character ' '"));
    CHECK(contains(with(R"({"a":0})", R"(["a a"])", "[]"), "the merge 'a a' is not of two tokens into a third"));
    CHECK(contains(with(R"({"a":0})", R"([["a",7]])", "[]"), "the merge ['a', 7] is not of two tokens into a third"));
    CHECK(contains(with(R"({"a":0})", "7", "[]"), "it has no merges"));
    CHECK(contains(with(R"({"a":0})", "[]", R"([{"id":true,"content":"x"}])"), "no whole number as its id"));
    CHECK(contains(with(R"({"a":0})", "[]", R"([{"id":1,"content":"x","special":1}])"), "neither true nor false"));
    CHECK(contains(with(R"({"a":0})", "[]", R"([{"id":1,"content":"x"},{"id":2,"content":"x"}])"), "in it twice"));
    CHECK(contains(with(R"({"a":0})", "[]", R"([{"id":1,"content":"a"}])"), "in it twice"));
}

TEST_CASE("a text that is no JSON object is refused") {
    CHECK(contains(refusal(""), "not readable JSON"));
    CHECK(contains(refusal("[1]"), "holds no JSON object"));
    CHECK(contains(refusal("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a"), "a string does not end"));
    CHECK(contains(refusal("\xff\xfe"), "UTF-16"));
    CHECK(contains(refusal("{\n\"a\xc3\"}"), "line 2: the text is not UTF-8"));
    CHECK(contains(refusal(std::string(3'000'000, ',')), "more than 2,000,000 values"));
    CHECK(contains(refusal(small::tokenizer_json() + "x"), "something follows the value"));
    CHECK(contains(refusal("{\"a\":1,\"a\":2}"), "stands twice"));
}

TEST_CASE("every beginning of a definition is refused") {
    const std::string whole = small::tokenizer_json(R"({"a":0,"b":1,"ab":2})", R"(["a b"])", "[]");
    for (size_t size = 0; size < whole.size(); ++size)
        refusal(whole.substr(0, size));
}
