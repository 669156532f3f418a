// What a saved session knows beside the decoder's part: its options, and the conversation as text.
#pragma once

#include "conversation/options.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace v2e {

// One question, and its answer as far as it came.
struct Turn {
    std::string question;
    uint32_t pictures = 0; // frames of a video included
    std::string answer;
};

struct SavedConversation {
    ConversationOptions options;
    std::vector<Turn> turns;

    std::string as_note() const;
    // Fails with V2E_ERROR_INPUT when the note is none of this release's; `path` is for the sentence.
    static SavedConversation parse(const std::string &note, const std::string &path);
};

} // namespace v2e
