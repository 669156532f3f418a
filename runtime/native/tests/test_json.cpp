// The JSON reader takes what RFC 8259 allows and refuses the rest.
#include "check.hpp"
#include "json.hpp"

using namespace v2e;

namespace {

Json parse(std::string_view text) {
    return Json::parse(text, "the test");
}

} // namespace

TEST(json_reads_every_kind_of_value) {
    const Json value = parse(R"( {"a": [1, -2.5, 1e3, true, false, null], "b": {"c": "x"}, "d": {}, "e": []} )");
    const std::vector<Json> &items = value.at("a").items();
    CHECK(items.size() == 6);
    CHECK(items[0].unsigned_integer() == 1);
    CHECK(items[1].number() == -2.5);
    CHECK(items[2].number() == 1000.0);
    CHECK(items[3].boolean() && !items[4].boolean());
    CHECK(items[5].kind() == Json::Kind::null);
    CHECK(value.at("b").at("c").string() == "x");
    CHECK(value.at("d").keys().empty() && value.at("e").items().empty());
    CHECK((value.keys() == std::vector<std::string>{"a", "b", "d", "e"}));
    CHECK(value.contains("a") && !value.contains("z"));
}

TEST(json_reads_numbers_exactly) {
    CHECK(parse("18446744073709551615").unsigned_integer() == UINT64_MAX);
    CHECK(parse("1e-06").number() == 1e-06);
    CHECK(parse("0.1").number() == 0.1);
    CHECK(parse("-0").number() == 0.0);
}

TEST(json_decodes_strings) {
    CHECK(parse(R"("\"\\\/\b\f\n\r\t")").string() == "\"\\/\b\f\n\r\t");
    CHECK(parse(R"("\u0041\u00e9\u20ac\ud83d\ude00")").string() == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(parse("\"\xc3\xa9\xf0\x9f\x98\x80\"").string() == "\xc3\xa9\xf0\x9f\x98\x80");
}

TEST(json_refuses_what_the_grammar_does_not_allow) {
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

TEST(json_refuses_text_that_is_not_utf8) {
    const char *const malformed[] = {"\"\x80\"",          "\"\xc0\xaf\"",         "\"\xe0\x80\xaf\"",
                                     "\"\xed\xa0\x80\"",  "\"\xf5\x80\x80\x80\"", "\"\xf0\x80\x80\x80\"",
                                     "\"\xc3\"",          "\"\\ud800\"",          "\"\\udc00\"",
                                     "\"\\ud800\\u0041\""};
    for (const char *text : malformed)
        CHECK_FAILS(V2E_ERROR_BUNDLE, "the test", parse(text));
}

TEST(json_refuses_bottomless_nesting) {
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too deep", parse(std::string(100000, '[')));
    CHECK(parse(std::string(60, '[') + std::string(60, ']')).items().size() == 1);
}

TEST(json_accessors_name_what_they_miss) {
    const Json value = parse(R"({"a": {"b": -1}})");
    CHECK_FAILS(V2E_ERROR_BUNDLE, "the test: a lacks 'c'", value.at("a").at("c"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "the test: a: b is not a string", value.at("a").at("b").string());
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is not a whole number", value.at("a").at("b").unsigned_integer());
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is not an array", value.items());
}
