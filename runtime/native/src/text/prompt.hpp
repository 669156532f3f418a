// From a conversation to the model's prompt: the chat template, its control tokens and the places of the pictures
// (docs/valley2.md, "Prompt").
#pragma once

#include "text/tokenizer.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

inline constexpr std::string_view START_OF_TURN = "<|im_start|>";
inline constexpr std::string_view END_OF_TURN = "<|im_end|>";
inline constexpr std::string_view PICTURE_START = "<im_start>";
inline constexpr std::string_view PICTURE_END = "<im_end>";
inline constexpr std::string_view PICTURE_TEXT = "<image>"; // a picture in a rendered prompt; it is no token
inline constexpr int32_t PICTURE_ID = -200;                 // a picture among token ids, as in the reference
inline constexpr std::string_view THINK_SUFFIX = "\nPlease think step by step.";

// Which of the two published codes a prompt follows (docs/valley2.md, "Policies").
enum class PromptPolicy { hub, repo };

// How pictures are written into a turn.
struct PromptLayout {
    PromptPolicy policy = PromptPolicy::hub;
    bool strict = false; // exactly as the reference: an <image> in a text is the place of a picture
    bool wrapped = true; // each picture stands between <im_start> and <im_end>
};

enum class PromptRole { system, user, assistant };

// What one side said.
struct PromptMessage {
    PromptRole role;
    std::string text;         // UTF-8
    size_t picture_count = 0; // of a user's turn: they stand in front of the text
};

struct PromptPart {
    enum class Kind {
        text,    // ordinary characters
        control, // a control token, by its content
        picture  // the place of the next picture; `text` is empty
    };
    Kind kind;
    std::string text;

    bool operator==(const PromptPart &) const = default;
};

using PromptParts = std::vector<PromptPart>;

inline constexpr size_t MOST_PROMPT_PICTURES = size_t{1} << 16; // of a conversation

// Lays out a whole conversation up to the point where the assistant answers: perhaps a system prompt, then user and
// assistant by turns, the user last. Fails with V2E_ERROR_INPUT when the messages are in another order, or when there
// are more pictures than MOST_PROMPT_PICTURES. The reference has all pictures in the first turn.
PromptParts conversation_prompt(std::span<const PromptMessage> messages, const PromptLayout &layout);

// Lays out the system prompt and the first question, up to the point where the assistant answers. Without a system
// prompt of the caller's it is the policy's; an empty one stays empty.
PromptParts first_turn_prompt(std::string_view question, size_t picture_count, const std::optional<std::string> &system,
                              const PromptLayout &layout);

// Lays out a further question: closes the answer that stands before it and puts the turn's pictures in front. Joined to
// the earlier turns it is what conversation_prompt gives.
PromptParts next_turn_prompt(std::string_view question, size_t picture_count, const PromptLayout &layout);

// The question with the request for a four-step answer.
std::string with_thinking(std::string_view question);

// The prompt as one string, for people and for comparison with the reference.
std::string render_prompt(std::span<const PromptPart> parts);

// Token ids of a prompt, with PICTURE_ID where a picture stands. Control tokens are put in by id, so that the same
// characters in somebody's text stay text. DIFFERS: the reference tokenises one string, in which the user can write
// control tokens; strict does the same. Fails with V2E_ERROR_INPUT when a text is not UTF-8, with V2E_ERROR_BUNDLE when
// the tokenizer lacks a control token.
std::vector<int32_t> encode_prompt(std::span<const PromptPart> parts, const Tokenizer &tokenizer, bool strict);

// Token ids of an answer as the model gives it: tags of the four steps are control tokens, a stop token ends it.
std::vector<int32_t> encode_answer(std::string_view answer, const Tokenizer &tokenizer, int32_t stop_token);

// The runs of text around the pictures: one more than there are pictures, empty ones included. They are parts of `ids`.
std::vector<std::span<const int32_t>> split_at_pictures(std::span<const int32_t> ids);

} // namespace v2e
