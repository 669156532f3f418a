// A conversation: its questions and answers, and what the decoder keeps of them.
#pragma once

#include "conversation/answer.hpp"
#include "conversation/model.hpp"
#include "conversation/options.hpp"
#include "conversation/question.hpp"
#include "conversation/saved_conversation.hpp"
#include "generation/session.hpp"
#include "valley2_parts.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace v2e {

class Conversation final : public AnswerHost, public std::enable_shared_from_this<Conversation> {
  public:
    Conversation(std::shared_ptr<const Model> model, ConversationOptions options, std::unique_ptr<Session> decoder,
                 std::vector<Turn> turns, SessionPlan plan);

    static std::shared_ptr<Conversation> open(std::shared_ptr<const Model> model, ConversationOptions options);
    static std::shared_ptr<Conversation> load(std::shared_ptr<const Model> model, const std::string &path);

    // The functions of valley2.h of these names.
    std::shared_ptr<Answer> ask(Question question);
    void save(const std::string &path);
    v2e_session_description describe() const;
    v2e_turn turn(uint64_t index) const;
    void close();

    void settle(Answer &answer, v2e_stop_reason reason) override;
    Session &decoder() override { return *decoder_; }
    void note_length() override;
    const Model &model() const override { return *model_; }
    const ConversationOptions &options() const override { return options_; }

  private:
    void settle_current(v2e_stop_reason reason);
    void require_open() const;

    const std::shared_ptr<const Model> model_;
    const ConversationOptions options_;
    const SessionPlan plan_;

    mutable std::mutex lock_;
    std::unique_ptr<Session> decoder_; // null: closed
    std::vector<Turn> turns_;
    std::weak_ptr<Answer> current_;
    std::atomic<uint64_t> length_{0}; // positions
    std::atomic<uint64_t> kv_bytes_{0};
};

} // namespace v2e
