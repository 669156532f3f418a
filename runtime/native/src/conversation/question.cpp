#include "conversation/question.hpp"

#include "base/error.hpp"
#include "conversation/options.hpp"

namespace v2e {

size_t Question::picture_count() const {
    size_t count = 0;
    for (const Message &message : messages)
        count += message.pictures.size();
    return count;
}

void check_messages(const Question &question) {
    if (question.system)
        check_text(*question.system, "The system prompt");
    if (question.messages.size() % 2 == 0)
        fail(V2E_ERROR_INPUT, "A conversation is user and assistant by turns and ends with the user.");
    for (size_t i = 0; i < question.messages.size(); ++i) {
        const Message &message = question.messages[i];
        if (message.role != (i % 2 == 0 ? V2E_ROLE_USER : V2E_ROLE_ASSISTANT))
            fail(V2E_ERROR_INPUT, "A conversation is user and assistant by turns and ends with the user.");
        if (message.role == V2E_ROLE_ASSISTANT && !message.pictures.empty())
            fail(V2E_ERROR_INPUT, "Only the user shows pictures; message %zu is the assistant's.", i);
        check_text(message.text, message.role == V2E_ROLE_USER ? "The question" : "The answer");
    }
    const Message &last = question.messages.back();
    if (last.pictures.empty() && last.text.find_first_not_of(" \t\n\r\f\v") == std::string::npos)
        fail(V2E_ERROR_INPUT, "The question is empty.");
}

} // namespace v2e
