// The JSON reader takes what RFC 8259 allows and refuses the rest.
#include "base/json.hpp"
#include "tests/allocations.hpp"
#include "tests/check.hpp"

using namespace v2e;

namespace {

Json parse(std::string_view text) {
    return Json::parse(text, "the test");
}

} // namespace

TEST_CASE("the JSON reader reads every kind of value") {
    const Json value = parse(R"( {"a": [1, -2.5, 1e3, true, false, null], "b": {"c": "x"}, "d": {}, "e": []} )");
    const std::vector<Json> &items = value.at("a").items();
    CHECK(items.size() == 6);
    CHECK(items[0].unsigned_integer() == 1);
    CHECK(items[1].number() == -2.5);
    CHECK(items[2].number() == 1000.0);
    CHECK(items[3].boolean());
    CHECK(!items[4].boolean());
    CHECK(items[5].kind() == Json::Kind::null);
    CHECK(value.at("b").at("c").string() == "x");
    CHECK(value.at("d").keys().empty());
    CHECK(value.at("e").items().empty());
    CHECK(value.keys() == std::vector<std::string>{"a", "b", "d", "e"});
    CHECK(value.contains("a"));
    CHECK(!value.contains("z"));
}

TEST_CASE("the JSON reader reads numbers exactly") {
    CHECK(parse("18446744073709551615").unsigned_integer() == UINT64_MAX);
    CHECK(parse("1e-06").number() == 1e-06);
    CHECK(parse("0.1").number() == 0.1);
    CHECK(parse("-0").number() == 0.0);
}

TEST_CASE("the JSON reader decodes strings") {
    CHECK(parse(R"("\"\\\/\b\f\n\r\t")").string() == "\"\\/\b\f\n\r\t");
    CHECK(parse(R"("\u0041\u00e9\u20ac\ud83d\ude00")").string() == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(parse("\"\xc3\xa9\xf0\x9f\x98\x80\"").string() == "\xc3\xa9\xf0\x9f\x98\x80");
}

TEST_CASE("the JSON reader refuses what the grammar does not allow") {
    const char *const malformed[] = {
        "",        " ",          "{",     "[1",       "[1,]",   "{\"a\":1,}", "{\"a\" 1}", "{a:1}",
        "tru",     "nul",        "NaN",   "Infinity", "+1",     "01",         "1.",        ".5",
        "1e",      "1e+",        "-",     "1 2",      "[1 2]",  "\"abc",      "\"\\x\"",   "\"\\u12g4\"",
        "'a'",     "{\"a\":1}x", "[1]//", "\"a\nb\"", "\"\\\"", "1e999",      "[,]",       "{\"a\":1,\"a\":2}",
        "\"\\u12",
    };
    for (const char *text : malformed)
        CHECK_FAILS(V2E_ERROR_BUNDLE, "the test", parse(text));
}

TEST_CASE("the JSON reader refuses text that is not UTF-8") {
    const char *const malformed[] = {"\"\x80\"",          "\"\xc0\xaf\"",         "\"\xe0\x80\xaf\"",
                                     "\"\xed\xa0\x80\"",  "\"\xf5\x80\x80\x80\"", "\"\xf0\x80\x80\x80\"",
                                     "\"\xc3\"",          "\"\\ud800\"",          "\"\\udc00\"",
                                     "\"\\ud800\\u0041\""};
    for (const char *text : malformed)
        CHECK_FAILS(V2E_ERROR_BUNDLE, "the test", parse(text));
}

TEST_CASE("the JSON reader refuses bottomless nesting") {
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too deep", parse(std::string(100000, '[')));
    CHECK(parse(std::string(60, '[') + std::string(60, ']')).items().size() == 1);
}

TEST_CASE("the JSON reader refuses more than a file of this project needs") {
    std::string values = "[";
    for (size_t i = 0; i < Json::MOST_VALUES; ++i)
        values += "1,";
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too many values", parse(values + "1]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "a key is too long", parse("{\"" + std::string(1025, 'k') + "\":1}"));
    CHECK(parse("{\"" + std::string(1024, 'k') + "\":1}").keys().size() == 1);
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too many digits", parse("[" + std::string(129, '1') + "]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "bytes of JSON", parse("\"" + std::string(Json::MOST_BYTES, ' ') + "\""));
}

// The memory that a text from outside may take: its size, and VALUE_BYTES for each of at most MOST_VALUES values.
TEST_CASE("JSON takes little memory whatever the text is") {
    const auto repeated = [](const std::string &begin, const std::string &part, const std::string &end, size_t bytes) {
        std::string text = begin;
        while (text.size() + part.size() + end.size() < bytes)
            text += part;
        return text + end;
    };
    std::string deep; // each level has a long key: once every value had a copy of all the keys that lead to it
    for (size_t i = 0; i < Json::MOST_DEPTH - 1; ++i)
        deep += "{\"" + std::string(1000, 'k') + "\":";
    std::string numbered = "{";
    for (size_t i = 0; numbered.size() < 15'900'000 && i < 200'000; ++i)
        numbered += (i == 0 ? "\"" : ",\"") + std::string(60, 'k') + std::to_string(i) + "\":0";
    const std::string texts[] = {
        repeated(deep + "[", "1,", "1]" + std::string(Json::MOST_DEPTH - 1, '}'), 400'000),
        repeated("[", "[],", "1]", 16'000'000),
        repeated("[", "{},", "1]", 700'000),
        repeated("[\"", ",", "\"]", 16'000'000),
        repeated("[", "\"\",", "1]", 16'000'000),
        numbered + "}",
    };
    for (const std::string &text : texts) {
        const Allocations allocations;
        try {
            parse(text);
        } catch (const Failure &failure) {
            CHECK(failure.message.find("too many values") != std::string::npos);
        }
        CHECK(allocations.bytes() <= text.size() + Json::MOST_VALUES * Json::VALUE_BYTES + 4096);
    }
}

TEST_CASE("the accessors of JSON name what they miss") {
    const Json value = parse(R"({"a": {"b": -1}})");
    CHECK_FAILS(V2E_ERROR_BUNDLE, "the test: a lacks 'c'", value.at("a").at("c"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "the test: a: b is not a string", value.at("a").at("b").string());
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is not a whole number", value.at("a").at("b").unsigned_integer());
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is not an array", value.items());
    const Json inner = parse(R"({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}})").at("a").at("b").at("c").at("d").at("e");
    CHECK_FAILS(V2E_ERROR_BUNDLE, "the test: ...: b: c: d: e is not a string", inner.string());
}
