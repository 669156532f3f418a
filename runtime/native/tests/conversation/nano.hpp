// The bundle of the tests, valley2-nano, and how they ask it.
#pragma once

#include "tests/check.hpp"
#include "valley2.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct Closer {
    void operator()(v2e_model *model) const { v2e_model_close(model); }
    void operator()(v2e_session *session) const { v2e_session_close(session); }
    void operator()(v2e_answer *answer) const { v2e_answer_close(answer); }
    void operator()(v2e_picture *picture) const { v2e_picture_close(picture); }
};

template <class Handle>
using Owned = std::unique_ptr<Handle, Closer>;

template <class Struct>
Struct sized() {
    Struct value{};
    value.struct_size = sizeof value;
    return value;
}

inline v2e_model_options nano_options() {
    auto options = sized<v2e_model_options>();
    options.threads = 2;
    options.device = V2E_DEVICE_CPU;
    options.check = V2E_CHECK_SIZES;
    options.verified_files = "";
    return options;
}

inline Owned<v2e_model> open_nano(const v2e_model_options &options = nano_options()) {
    v2e_model *model = nullptr;
    REQUIRE_MESSAGE(v2e_model_open(V2E_NANO, &options, &model) == V2E_OK, v2e_last_error());
    return Owned<v2e_model>(model);
}

inline Owned<v2e_session> open_session(const v2e_model *model, const v2e_session_options *options = nullptr) {
    v2e_session *session = nullptr;
    REQUIRE_MESSAGE(v2e_session_open(model, options, &session) == V2E_OK, v2e_last_error());
    return Owned<v2e_session>(session);
}

// A picture of stripes and slopes, another for each number.
inline Owned<v2e_picture> make_picture(uint32_t width, uint32_t height, uint32_t number) {
    std::vector<uint8_t> pixels(size_t{width} * height * 3);
    for (size_t i = 0; i < pixels.size(); ++i)
        pixels[i] = static_cast<uint8_t>((i / 3 % width) * (number + 1) + i / 3 / width * 3 + i % 3 * 40);
    v2e_picture *picture = nullptr;
    REQUIRE(v2e_picture_from_pixels(pixels.data(), width, height, 0, V2E_PIXELS_RGB, nullptr, &picture) == V2E_OK);
    return Owned<v2e_picture>(picture);
}

inline Owned<v2e_answer> ask(v2e_session *session, const v2e_question &question) {
    v2e_answer *answer = nullptr;
    REQUIRE_MESSAGE(v2e_session_ask(session, &question, &answer) == V2E_OK, v2e_last_error());
    return Owned<v2e_answer>(answer);
}

inline v2e_question text_question(const char *text) {
    auto question = sized<v2e_question>();
    question.text = text;
    question.max_new_tokens = 24;
    return question;
}

struct Read {
    std::string text;
    std::vector<int32_t> tokens;
    std::vector<v2e_event_kind> kinds;
    v2e_status status = V2E_OK;
    uint32_t reason = V2E_STOP_NONE;
};

inline Read read_all(v2e_answer *answer) {
    Read read;
    auto event = sized<v2e_event>();
    while (event.kind != V2E_EVENT_END) {
        read.status = v2e_answer_next(answer, V2E_FOREVER, &event);
        if (read.status != V2E_OK)
            return read;
        read.kinds.push_back(event.kind);
        if (event.kind == V2E_EVENT_TEXT)
            read.text.append(event.text, event.size);
        if (event.kind == V2E_EVENT_TOKEN)
            read.tokens.push_back(event.token);
    }
    read.reason = event.reason;
    return read;
}

inline Read ask_and_read(v2e_session *session, const v2e_question &question) {
    const Owned<v2e_answer> answer = ask(session, question);
    return read_all(answer.get());
}

inline v2e_session_description describe(const v2e_session *session) {
    auto about = sized<v2e_session_description>();
    REQUIRE(v2e_session_describe(session, &about) == V2E_OK);
    return about;
}

inline v2e_turn turn_of(const v2e_session *session, uint64_t index) {
    auto turn = sized<v2e_turn>();
    REQUIRE(v2e_session_turn(session, index, &turn) == V2E_OK);
    return turn;
}
