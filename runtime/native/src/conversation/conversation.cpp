#include "conversation/conversation.hpp"

#include "base/error.hpp"
#include "generation/sampler.hpp"

#include <utility>

namespace v2e {
namespace {

v2e_decoder_session_options decoder_options(const ConversationOptions &options) {
    v2e_decoder_session_options given{};
    given.struct_size = sizeof given;
    given.context_length = options.context_length;
    given.kv_precision = options.kv_precision;
    given.prefill_chunk = options.prefill_chunk;
    given.reuse = options.reuse;
    return given;
}

// What a turn is called in the conversation: the texts of its last message.
Turn turn_of(const Question &question, std::string answer) {
    Turn turn;
    turn.question = question.messages.back().text;
    turn.pictures = static_cast<uint32_t>(question.messages.back().pictures.size());
    turn.answer = std::move(answer);
    return turn;
}

} // namespace

Conversation::Conversation(std::shared_ptr<const Model> model, ConversationOptions options,
                           std::unique_ptr<Session> decoder, std::vector<Turn> turns, SessionPlan plan)
    : model_(std::move(model)), options_(std::move(options)), plan_(std::move(plan)), decoder_(std::move(decoder)),
      turns_(std::move(turns)) {
    note_length();
}

std::shared_ptr<Conversation> Conversation::open(std::shared_ptr<const Model> model, ConversationOptions options) {
    SessionPlan plan = model->fit(options);
    const LoadedDecoder &decoder = model->decoder();
    auto session = std::make_unique<Session>(decoder.model(), decoder_options(options), &decoder.prefixes());
    return std::make_shared<Conversation>(std::move(model), std::move(options), std::move(session), std::vector<Turn>(),
                                          std::move(plan));
}

std::shared_ptr<Conversation> Conversation::load(std::shared_ptr<const Model> model, const std::string &path) {
    v2e_decoder_session_options as_saved{};
    as_saved.struct_size = sizeof as_saved;
    std::unique_ptr<Session> session = model->decoder().load(path, as_saved);
    SavedConversation saved = SavedConversation::parse(session->note(), path);
    const uint32_t wanted = saved.options.kv_precision;
    SessionPlan plan = model->fit(saved.options);
    if (saved.options.kv_precision != wanted)
        fail(V2E_ERROR_BUDGET,
             "The saved session does not keep the limit on memory; load the model with a higher one.");
    return std::make_shared<Conversation>(std::move(model), std::move(saved.options), std::move(session),
                                          std::move(saved.turns), std::move(plan));
}

void Conversation::require_open() const {
    if (decoder_ == nullptr)
        fail(V2E_ERROR_INPUT, "The session is closed.");
}

void Conversation::note_length() {
    length_ = decoder_->length();
    kv_bytes_ = decoder_->kv_bytes();
}

std::shared_ptr<Answer> Conversation::ask(Question question) {
    check_messages(question);
    if (question.sampling.speculation > V2E_SPECULATION_ALWAYS)
        fail(V2E_ERROR_INPUT, "speculation is %u, which is no v2e_speculation.",
             static_cast<unsigned>(question.sampling.speculation));
    Sampler(question.sampling, model_->decoder().model().sizes().vocabulary_size); // refuses what is out of range
    const std::lock_guard<std::mutex> lock(lock_);
    require_open();
    settle_current(V2E_STOP_LEFT);
    if (question.system && decoder_->length() > 0)
        fail(V2E_ERROR_INPUT, "A system prompt comes first; the session has turns already.");
    auto answer = std::make_shared<Answer>(shared_from_this(), std::move(question));
    current_ = answer;
    answer->begin();
    return answer;
}

void Conversation::settle(Answer &answer, v2e_stop_reason reason) {
    const std::lock_guard<std::mutex> lock(lock_);
    if (current_.lock().get() == &answer)
        settle_current(reason);
}

void Conversation::settle_current(v2e_stop_reason reason) {
    const std::shared_ptr<Answer> answer = current_.lock();
    current_.reset();
    if (answer == nullptr)
        return;
    const Settlement settlement = answer->settle(reason);
    decoder_->resume();
    const size_t wanted = settlement.length.value_or(answer->begin_length());
    if (wanted < decoder_->length())
        decoder_->truncate(wanted);
    if (settlement.length) {
        const std::vector<Message> &messages = answer->question().messages;
        for (size_t i = 0; i + 1 < messages.size(); i += 2)
            turns_.push_back(
                {messages[i].text, static_cast<uint32_t>(messages[i].pictures.size()), messages[i + 1].text});
        turns_.push_back(turn_of(answer->question(), settlement.text));
    }
    note_length();
    answer->note_settled(length_, kv_bytes_);
}

void Conversation::save(const std::string &path) {
    const std::lock_guard<std::mutex> lock(lock_);
    require_open();
    settle_current(V2E_STOP_LEFT);
    model_->decoder().save(*decoder_, path, SavedConversation{options_, turns_}.as_note());
}

v2e_session_description Conversation::describe() const {
    const std::lock_guard<std::mutex> lock(lock_);
    require_open();
    v2e_session_description about{};
    about.length = length_;
    about.turn_count = turns_.size();
    about.kv_bytes = kv_bytes_;
    about.options = options_.as_struct();
    about.given_up = plan_.given_up.c_str();
    about.planned_bytes = plan_.planned_bytes;
    return about;
}

v2e_turn Conversation::turn(uint64_t index) const {
    const std::lock_guard<std::mutex> lock(lock_);
    if (index >= turns_.size())
        fail(V2E_ERROR_INPUT, "There is no turn %llu: the session has %zu.", static_cast<unsigned long long>(index),
             turns_.size());
    const Turn &turn = turns_[index];
    v2e_turn given{};
    given.question = turn.question.c_str();
    given.answer = turn.answer.c_str();
    given.pictures = turn.pictures;
    return given;
}

void Conversation::close() {
    const std::lock_guard<std::mutex> lock(lock_);
    if (decoder_ == nullptr)
        return;
    settle_current(V2E_STOP_LEFT);
    decoder_.reset();
}

} // namespace v2e
