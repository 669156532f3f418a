// An answer: computed on the engine's thread, read event by event on another one.
#pragma once

#include "conversation/engine.hpp"
#include "conversation/question.hpp"
#include "text/stop_strings.hpp"
#include "text/text_stream.hpp"
#include "valley2_parts.h"
#include "vision/vision_stop.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

class Answer;
class Model;
class Session;
struct ConversationOptions;
struct PreparedQuestion;

// The conversation that an answer belongs to, as far as the answer sees it.
class AnswerHost {
  public:
    virtual ~AnswerHost() = default;

    // An answer is over, or nobody reads it any more: what was read of it stays. Does nothing when it was settled
    // before.
    virtual void settle(Answer &answer, v2e_stop_reason reason) = 0;
    // The decoder's part, for the answer while it is with the engine.
    virtual Session &decoder() = 0;
    // The decoder's part has become longer or shorter.
    virtual void note_length() = 0;
    virtual const Model &model() const = 0;
    virtual const ConversationOptions &options() const = 0;
};

// What a conversation keeps of an answer that is over.
struct Settlement {
    std::optional<size_t> length; // positions that stay; nothing: the question leaves no trace
    std::string text;             // what was read of it
};

class Answer final : public Work, public std::enable_shared_from_this<Answer> {
  public:
    Answer(std::shared_ptr<AnswerHost> conversation, Question question);

    // For one thread at a time. As v2e_answer_next says it; what an event points to lasts until the next call.
    v2e_event next(uint32_t timeout_ms);
    v2e_statistics statistics() const;
    // From any thread.
    void cancel();
    // Ends it, and waits until its step is over. What was read stays in the conversation. From any thread.
    void leave();

    // For its conversation, which holds its lock and is the only one to call these.
    void begin();
    Settlement settle(v2e_stop_reason reason);
    const Question &question() const { return question_; }
    size_t begin_length() const { return begin_length_; }
    void note_settled(size_t length, uint64_t kv_bytes);

    Next step() noexcept override;
    bool is_short() const noexcept override { return answering_.load(std::memory_order_relaxed); }

  private:
    struct Event {
        v2e_event_kind kind;
        uint64_t done, total;
        int32_t token;
        double elapsed_ms;
        std::string text;
        size_t length;   // positions of the session that go with the text or token
        uint64_t tokens; // of the answer, up to it
        v2e_stop_reason reason;
    };
    // How much text the tokens up to a position have given.
    struct TextMark {
        size_t length; // positions
        size_t bytes;
    };

    Next advance();
    void prepare();
    void encode(PreparedQuestion &prepared);
    void prefill(const PreparedQuestion &prepared);
    Next decode();
    std::optional<int32_t> choose(v2e_stop_reason &reason);
    Event token_event(int32_t token) const;
    void add_text(std::string_view text, std::vector<Event> &told);
    void tell_text(std::string_view text);
    void finish_text(v2e_stop_reason reason);
    void note_counters();

    void require_going() const;
    bool report(v2e_event_kind kind, uint64_t done, uint64_t total);
    void warn(const std::string &sentence);
    void push(Event event);
    void push(std::vector<Event> told);
    void end(v2e_stop_reason reason, size_t length);
    void fail_with(v2e_status status, std::string message);
    bool is_stopped() const;
    bool must_rest();
    bool wait(std::unique_lock<std::mutex> &lock, uint32_t timeout_ms);
    v2e_event hand_out(Event event);
    size_t length_of_text(size_t bytes) const;
    double elapsed() const; // seconds since the question

    const std::shared_ptr<AnswerHost> conversation_;
    const Question question_;
    const std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
    VisionStop vision_stop_;
    std::atomic<bool> answering_{false}; // the prompt is in the cache, and a step is one token

    // Only the engine's thread uses the following.
    bool prepared_ = false;
    size_t begin_length_ = 0;
    v2e_decoder_session_counters begin_counters_{};
    std::optional<TextStream> stream_;
    std::optional<StopStrings> stops_;
    std::vector<TextMark> marks_;
    size_t streamed_bytes_ = 0; // text that the tokens have given
    size_t told_bytes_ = 0;     // of it, what events have told
    uint64_t tokens_ = 0;

    // Only the thread that reads uses this.
    std::string current_text_;

    mutable std::mutex lock_;
    std::condition_variable told_;
    std::deque<Event> events_;
    v2e_statistics statistics_{};
    std::optional<Event> end_; // it was read
    v2e_status failure_ = V2E_OK;
    std::string failure_message_;
    bool over_ = false;      // nothing more is computed
    bool cancelled_ = false; // somebody wants it to stop
    bool left_ = false;      // it is the conversation's no more
    bool resting_ = false;   // it waits for its reader
    std::string read_text_;
    std::optional<size_t> read_length_; // positions that go with what was read
    std::optional<size_t> end_length_;  // positions at its own end
    uint64_t read_tokens_ = 0;
};

} // namespace v2e
