// The functions of valley2.h about sessions and questions.
#include "api/arguments.hpp"
#include "api/cancel.hpp"
#include "api/handles.hpp"
#include "api/picture.hpp"
#include "valley2.h"

#include <memory>
#include <random>
#include <string>
#include <utility>

using namespace v2e;

namespace {

constexpr uint32_t DEFAULT_NEW_TOKENS = 1024;
constexpr size_t MOST_MESSAGES = size_t{1} << 16;
constexpr size_t MOST_PARTS = size_t{1} << 16; // of a message

uint64_t fresh_seed() {
    std::random_device source;
    return uint64_t{source()} << 32 | source();
}

void check_count(const void *pointer, const char *name, size_t count, size_t most) {
    if (count > most)
        fail(V2E_ERROR_INPUT, "question.%s are %zu; there may be %zu at most.", name, count, most);
    if (count > 0 && pointer == nullptr)
        fail(V2E_ERROR_INPUT, "question.%s is NULL.", name);
}

Message read_message(const v2e_message &given) {
    if (given.role > V2E_ROLE_SYSTEM)
        fail(V2E_ERROR_INPUT, "role is %u, which is no v2e_role.", static_cast<unsigned>(given.role));
    check_count(given.parts, "messages.parts", given.part_count, MOST_PARTS);
    Message message;
    message.role = static_cast<v2e_role>(given.role);
    message.video = given.video != 0;
    for (size_t i = 0; i < given.part_count; ++i) {
        const v2e_part &part = given.parts[i];
        if ((part.text == nullptr) == (part.picture == nullptr))
            fail(V2E_ERROR_INPUT, "A part of a message must have either a text or a picture.");
        if (part.text != nullptr)
            message.text += part.text;
        else
            message.pictures.push_back(picture_of(part.picture));
    }
    return message;
}

void read_messages(const v2e_question &given, Question &question) {
    if (given.text != nullptr || given.picture_count > 0)
        fail(V2E_ERROR_INPUT, "A question has either messages, or a text and pictures.");
    check_count(given.messages, "messages", given.message_count, MOST_MESSAGES);
    for (size_t i = 0; i < given.message_count; ++i) {
        Message message = read_message(given.messages[i]);
        if (message.role != V2E_ROLE_SYSTEM) {
            question.messages.push_back(std::move(message));
            continue;
        }
        if (i > 0 || !message.pictures.empty())
            fail(V2E_ERROR_INPUT, "A system prompt is the first message and has no pictures.");
        question.system = std::move(message.text);
    }
}

void read_turn(const v2e_question &given, Question &question) {
    check_count(given.pictures, "pictures", given.picture_count, MOST_PARTS);
    Message message;
    message.text = given.text == nullptr ? "" : given.text;
    message.video = given.video != 0;
    for (size_t i = 0; i < given.picture_count; ++i) {
        if (given.pictures[i] == nullptr)
            fail(V2E_ERROR_INPUT, "Picture %zu of the question is NULL.", i + 1);
        message.pictures.push_back(picture_of(given.pictures[i]));
    }
    question.messages.push_back(std::move(message));
}

Question read_question(const v2e_question &given) {
    Question question;
    if (given.message_count > 0)
        read_messages(given, question);
    else
        read_turn(given, question);
    if (given.think != 0 && given.no_think != 0)
        fail(V2E_ERROR_INPUT, "think and no_think contradict each other.");
    if (given.think != 0 || given.no_think != 0)
        question.think = given.think != 0;
    question.max_new_tokens = given.max_new_tokens == 0 ? DEFAULT_NEW_TOKENS : given.max_new_tokens;
    question.sampling.struct_size = sizeof question.sampling;
    question.sampling.temperature = given.temperature;
    question.sampling.top_k = given.top_k;
    question.sampling.top_p = given.top_p;
    question.sampling.min_p = given.min_p;
    question.sampling.repetition_penalty = given.repetition_penalty;
    question.sampling.speculation = given.speculation;
    question.seed = given.fixed_seed != 0 ? given.seed : fresh_seed();
    check_count(given.stop_texts, "stop_texts", given.stop_text_count, StopStrings::MOST_STRINGS);
    for (size_t i = 0; i < given.stop_text_count; ++i) {
        require(given.stop_texts[i], "question.stop_texts");
        question.stop_texts.emplace_back(given.stop_texts[i]);
    }
    question.token_events = given.token_events != 0;
    question.most_ahead = given.most_ahead;
    question.cancel = flag_of(given.cancel);
    question.notify = given.notify;
    question.notify_data = given.notify_data;
    return question;
}

} // namespace

v2e_status v2e_session_open(const v2e_model *model, const v2e_session_options *options, v2e_session **session) {
    return guard([&] {
        require(model, "model");
        require(session, "session");
        *session = nullptr;
        *session = new v2e_session{Conversation::open(model->model, ConversationOptions::read(options))};
    });
}

v2e_status v2e_session_load(const v2e_model *model, const char *path, v2e_session **session) {
    return guard([&] {
        require(model, "model");
        require(path, "path");
        require(session, "session");
        *session = nullptr;
        *session = new v2e_session{Conversation::load(model->model, path)};
    });
}

v2e_status v2e_session_save(v2e_session *session, const char *path) {
    return guard([&] {
        require(session, "session");
        require(path, "path");
        session->conversation->save(path);
    });
}

v2e_status v2e_session_describe(const v2e_session *session, v2e_session_description *description) {
    return guard([&] {
        require(session, "session");
        write_struct(session->conversation->describe(), description, "description");
    });
}

v2e_status v2e_session_turn(const v2e_session *session, uint64_t index, v2e_turn *turn) {
    return guard([&] {
        require(session, "session");
        write_struct(session->conversation->turn(index), turn, "turn");
    });
}

v2e_status v2e_session_ask(v2e_session *session, const v2e_question *question, v2e_answer **answer) {
    return guard([&] {
        require(session, "session");
        require(answer, "answer");
        *answer = nullptr;
        auto made = std::make_unique<v2e_answer>();
        made->answer = session->conversation->ask(read_question(read_options(question)));
        *answer = made.release();
    });
}

void v2e_session_close(v2e_session *session) {
    if (session == nullptr)
        return;
    guard([&] { session->conversation->close(); });
    delete session;
}
