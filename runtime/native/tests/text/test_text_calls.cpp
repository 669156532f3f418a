// The C functions about text: what they check of their arguments, and how they write what was found.
#include "tests/check.hpp"
#include "tests/small_tokenizer.hpp"
#include "tests/temporary_file.hpp"
#include "valley2_parts.h"

#include <cstring>

namespace {

class Handle {
  public:
    Handle() {
        const std::string content = v2e::small::tokenizer_json();
        REQUIRE(v2e_tokenizer_parse(content.data(), content.size(), "small.json", &tokenizer_) == V2E_OK);
    }
    ~Handle() { v2e_tokenizer_close(tokenizer_); }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;

    operator const v2e_tokenizer *() const { return tokenizer_; }

  private:
    v2e_tokenizer *tokenizer_ = nullptr;
};

} // namespace

TEST_CASE("ids are written as far as there is room, and counted to the end") {
    const Handle tokenizer;
    int32_t ids[3] = {-7, -7, -7};
    size_t count = 0;
    CHECK(v2e_tokenizer_encode(tokenizer, "the he", 6, 0, nullptr, 0, &count) == V2E_OK);
    CHECK(count == 3);
    CHECK(v2e_tokenizer_encode(tokenizer, "the he", 6, 0, ids, 2, &count) == V2E_OK);
    CHECK(count == 3);
    CHECK((ids[0] == 257 && ids[1] == ' ' && ids[2] == -7));
    CHECK(v2e_tokenizer_encode(tokenizer, nullptr, 0, 0, ids, 3, &count) == V2E_OK);
    CHECK(count == 0);
}

TEST_CASE("missing arguments of the text functions are refused with their names") {
    const Handle tokenizer;
    size_t count = 0;
    int32_t id = 0;
    CHECK(v2e_tokenizer_encode(nullptr, "a", 1, 0, nullptr, 0, &count) == V2E_ERROR_INPUT);
    CHECK(std::strstr(v2e_last_error(), "tokenizer") != nullptr);
    CHECK(v2e_tokenizer_encode(tokenizer, nullptr, 1, 0, nullptr, 0, &count) == V2E_ERROR_INPUT);
    CHECK(v2e_tokenizer_encode(tokenizer, "a", 1, 0, nullptr, 1, &count) == V2E_ERROR_INPUT);
    CHECK(v2e_tokenizer_encode(tokenizer, "a", 1, 0, nullptr, 0, nullptr) == V2E_ERROR_INPUT);
    CHECK(v2e_tokenizer_find_control(tokenizer, "<none>", 6, &id) == V2E_OK);
    CHECK(id == -1);
    v2e_tokenizer *opened = nullptr;
    CHECK(v2e_tokenizer_open("/no/such/tokenizer.json", &opened) == V2E_ERROR_BUNDLE);
    CHECK(opened == nullptr);
}

TEST_CASE("a tokenizer is read from a file") {
    const TemporaryFile file(v2e::small::tokenizer_json());
    v2e_tokenizer *opened = nullptr;
    REQUIRE(v2e_tokenizer_open(file.path().c_str(), &opened) == V2E_OK);
    int32_t largest = 0;
    CHECK(v2e_tokenizer_largest_id(opened, &largest) == V2E_OK);
    CHECK(largest == 268);
    v2e_tokenizer_close(opened);
}

TEST_CASE("prompts refuse numbers that stand for nothing") {
    const Handle tokenizer;
    v2e_prompt_layout layout{};
    v2e_prompt *prompt = nullptr;
    v2e_prompt_message message{V2E_PROMPT_USER, "Q", 1, 0};
    CHECK(v2e_prompt_open(&layout, &message, 1, &prompt) == V2E_ERROR_INPUT); // no struct_size
    layout.struct_size = sizeof layout;
    layout.policy = 2;
    CHECK(v2e_prompt_open(&layout, &message, 1, &prompt) == V2E_ERROR_INPUT);
    layout.policy = 0;
    message.role = 3;
    CHECK(v2e_prompt_open(&layout, &message, 1, &prompt) == V2E_ERROR_INPUT);
    message.role = V2E_PROMPT_USER;
    message.picture_count = SIZE_MAX;
    CHECK(v2e_prompt_open(&layout, &message, 1, &prompt) == V2E_ERROR_INPUT);
    CHECK(prompt == nullptr);
    const v2e_prompt_part part{3, "x", 1};
    size_t count = 0;
    CHECK(v2e_prompt_encode(tokenizer, &part, 1, 0, nullptr, 0, &count) == V2E_ERROR_INPUT);
}

TEST_CASE("a stream gives out what each call makes certain") {
    const Handle tokenizer;
    v2e_text_stream *stream = nullptr;
    REQUIRE(v2e_text_stream_open(tokenizer, &stream) == V2E_OK);
    const int32_t tokens[] = {257, 0xc3};
    const char *text = nullptr;
    size_t size = 0;
    CHECK(v2e_text_stream_push(stream, tokens, 2, &text, &size) == V2E_OK);
    CHECK(std::string(text, size) == "the");
    CHECK(v2e_text_stream_finish(stream, &text, &size) == V2E_OK);
    CHECK(std::string(text, size) == "\xef\xbf\xbd");
    v2e_text_stream_close(stream);
    v2e_text_stream_close(nullptr);
}
