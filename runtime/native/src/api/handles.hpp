// What the handles of models, sessions and answers hold.
#pragma once

#include "conversation/answer.hpp"
#include "conversation/conversation.hpp"
#include "conversation/model.hpp"
#include "valley2.h"

#include <atomic>
#include <memory>

struct v2e_model {
    std::shared_ptr<const v2e::Model> model;
};

struct v2e_session {
    std::shared_ptr<v2e::Conversation> conversation;
};

struct v2e_answer {
    std::shared_ptr<v2e::Answer> answer;
    std::atomic<uint32_t> holds{1};
};
