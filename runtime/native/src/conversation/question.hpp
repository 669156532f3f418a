// A question as it was asked: the caller's structs, copied and checked.
#pragma once

#include "base/stop_flag.hpp"
#include "picture/picture.hpp"
#include "valley2_parts.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace v2e {

using SharedPicture = std::shared_ptr<const Picture>;

// What one side says.
struct Message {
    v2e_role role = V2E_ROLE_USER;
    std::string text;
    std::vector<SharedPicture> pictures; // they stand before the text
    bool video = false;                  // they are frames of one
};

struct Question {
    std::optional<std::string> system; // instead of the conversation's own
    std::vector<Message> messages;     // user and assistant by turns, beginning and ending with the user
    std::optional<bool> think;         // nothing: as the conversation has it
    uint32_t max_new_tokens = 0;
    v2e_generate_options sampling{}; // of a step, but for its seed and what follows
    uint64_t seed = 0;
    std::vector<std::string> stop_texts;
    bool token_events = false;
    uint32_t most_ahead = 0; // tokens; 0: any number
    std::shared_ptr<const CancelFlag> cancel;
    v2e_notify_callback notify = nullptr;
    void *notify_data = nullptr;

    size_t picture_count() const;
};

// Fails with V2E_ERROR_INPUT for messages in another order, for an assistant with pictures, for an empty question.
void check_messages(const Question &question);

} // namespace v2e
