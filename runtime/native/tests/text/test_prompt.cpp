// The chat template with its pictures. tests/runtime/core/test_prompt.py compares it with the reference's own.
#include "tests/check.hpp"
#include "tests/small_tokenizer.hpp"
#include "text/prompt.hpp"

using namespace v2e;

namespace {

constexpr PromptLayout HUB, REPO{PromptPolicy::repo, false, true}, STRICT_HUB{PromptPolicy::hub, true, true},
    STRICT_REPO{PromptPolicy::repo, true, true};

std::string turn(std::string_view question, size_t pictures, const PromptLayout &layout) {
    const std::string text = render_prompt(next_turn_prompt(question, pictures, layout));
    const std::string before = "<|im_end|>\n<|im_start|>user\n", behind = "<|im_end|>\n<|im_start|>assistant\n";
    REQUIRE(text.starts_with(before));
    REQUIRE(text.ends_with(behind));
    return text.substr(before.size(), text.size() - before.size() - behind.size());
}

} // namespace

TEST_CASE("pictures stand in front of a question as the policy has them") {
    CHECK(turn("Q", 0, HUB) == "Q");
    CHECK(turn("Q", 2, HUB) == "<im_start><image><im_end> <im_start><image><im_end>\nQ");
    CHECK(turn("Q", 2, REPO) == "<im_start><image><im_end><im_start><image><im_end>\nQ");
    CHECK(turn("Q", 2, {PromptPolicy::hub, false, false}) == "<image> <image>\nQ");
}

TEST_CASE("strict reads the places of pictures in the text") {
    CHECK(turn("a <image> b <image>", 1, STRICT_HUB) == "a <im_start><image><im_end> b <im_start><image><im_end>");
    CHECK(turn("a <image> b <image>", 1, STRICT_REPO) == "a <im_start><image><im_end> b ");
    CHECK(turn("a <image>", 1, HUB) == "<im_start><image><im_end>\na <image>");
}

TEST_CASE("a conversation has a system prompt, its turns and an open answer") {
    const std::vector<PromptMessage> messages = {
        {PromptRole::user, "One?", 1}, {PromptRole::assistant, "1"}, {PromptRole::user, "Two?", 1}};
    CHECK(render_prompt(conversation_prompt(messages, HUB)) ==
          "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
          "<|im_start|>user\n<im_start><image><im_end>\nOne?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
          "<|im_start|>user\n<im_start><image><im_end>\nTwo?<|im_end|>\n<|im_start|>assistant\n");
    const std::string given = render_prompt(first_turn_prompt("Q", 0, "", HUB));
    CHECK(given.starts_with("<|im_start|>system\n<|im_end|>\n"));
    CHECK(render_prompt(first_turn_prompt("Q", 0, "Mine", STRICT_REPO)).find("Mine") == std::string::npos);
}

TEST_CASE("a conversation in another order is refused") {
    const PromptMessage system{PromptRole::system, "s"}, user{PromptRole::user, "u"},
        answer{PromptRole::assistant, "a"};
    const PromptMessage seen{PromptRole::assistant, "a", 1}, many{PromptRole::user, "u", MOST_PROMPT_PICTURES + 1};
    for (const std::vector<PromptMessage> &messages : std::vector<std::vector<PromptMessage>>{{},
                                                                                              {system},
                                                                                              {answer},
                                                                                              {user, answer},
                                                                                              {user, user, user},
                                                                                              {user, system, user},
                                                                                              {user, seen, user},
                                                                                              {many}}) {
        const auto failure = check::failure_of([&] { conversation_prompt(messages, HUB); });
        REQUIRE(failure);
        CHECK(failure->status == V2E_ERROR_INPUT);
    }
}

TEST_CASE("control tokens are put in by id, and texts side by side are encoded as one") {
    const Tokenizer tokenizer = Tokenizer::parse(small::tokenizer_json(), "small.json");
    const PromptParts parts = {{PromptPart::Kind::text, "t"},
                               {PromptPart::Kind::text, "he"},
                               {PromptPart::Kind::control, "<im_start>"},
                               {PromptPart::Kind::picture, ""},
                               {PromptPart::Kind::text, "<w>"}};
    CHECK(encode_prompt(parts, tokenizer, false) == std::vector<int32_t>{257, 263, PICTURE_ID, '<', 'w', '>'});
    CHECK(encode_prompt(parts, tokenizer, true) == std::vector<int32_t>{257, 263, PICTURE_ID, 265});
    const PromptParts unknown = {{PromptPart::Kind::control, "<audio>"}};
    CHECK(check::failure_of([&] { encode_prompt(unknown, tokenizer, false); })->status == V2E_ERROR_BUNDLE);
}

TEST_CASE("answers end with their stop token, and ids are cut at pictures") {
    const Tokenizer tokenizer = Tokenizer::parse(small::tokenizer_json(), "small.json");
    CHECK(encode_answer("the<w>", tokenizer, 262) == std::vector<int32_t>{257, '<', 'w', '>', 262});
    CHECK(with_thinking("Why?") == "Why?\nPlease think step by step.");
    const std::vector<int32_t> ids = {1, PICTURE_ID, PICTURE_ID, 2, 3};
    const auto runs = split_at_pictures(ids);
    REQUIRE(runs.size() == 3);
    CHECK((runs[0].size() == 1 && runs[1].empty() && runs[2].size() == 2));
}
