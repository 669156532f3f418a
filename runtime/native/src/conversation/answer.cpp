#include "conversation/answer.hpp"

#include "base/error.hpp"
#include "base/process_memory.hpp"
#include "conversation/model.hpp"
#include "conversation/prepared_question.hpp"
#include "generation/session.hpp"

#include <algorithm>
#include <utility>

namespace v2e {
namespace {

// The state that the core's generator, a SplitMix64 of one number a token, has after so many tokens: an answer whose
// tokens are chosen by one call each is the one that a single call would give.
uint64_t seed_of_step(uint64_t seed, uint64_t step) {
    return seed + step * 0x9E3779B97F4A7C15;
}

class Stopwatch {
  public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

  private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Events that a reader may miss, since the next of their kind says more. Steps that take long each are kept until many
// wait, for readers that do something at one of them.
bool may_replace(v2e_event_kind kind, size_t waiting) {
    constexpr size_t MOST_WAITING = 1024;
    if (kind == V2E_EVENT_LAYER)
        return true;
    return waiting >= MOST_WAITING &&
           (kind == V2E_EVENT_PREFILL || kind == V2E_EVENT_TILE || kind == V2E_EVENT_PICTURE || kind == V2E_EVENT_LOAD);
}

} // namespace

Answer::Answer(std::shared_ptr<AnswerHost> conversation, Question question)
    : conversation_(std::move(conversation)), question_(std::move(question)) {
    statistics_.seed = question_.seed;
}

double Answer::elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - asked_).count();
}

void Answer::begin() {
    Session &decoder = conversation_->decoder();
    begin_length_ = decoder.length();
    begin_counters_ = decoder.counters();
    vision_stop_.flag().begin_call(question_.cancel);
    decoder.stop_flag().begin_call(question_.cancel);
    statistics_.context_length = decoder.context_length();
    if (!question_.stop_texts.empty())
        stops_.emplace(question_.stop_texts);
    conversation_->model().engine().add(shared_from_this());
}

Work::Next Answer::step() noexcept {
    Next next = Next::rest;
    const v2e_status status = guard([&] { next = advance(); });
    if (status == V2E_OK)
        return next;
    answering_ = false;
    if (status != V2E_ERROR_CANCELLED)
        guard([&] { // nobody has a use for the question's beginning
            conversation_->decoder().truncate(begin_length_);
            conversation_->note_length();
        });
    std::string message = status == V2E_ERROR_CANCELLED ? std::string() : last_error();
    if (status == V2E_ERROR_CANCELLED)
        end(V2E_STOP_CANCELLED, 0);
    else
        fail_with(status, std::move(message));
    return Next::rest;
}

Work::Next Answer::advance() {
    require_going();
    if (answering_)
        return decode();
    prepare();
    answering_ = true;
    return Next::again;
}

void Answer::prepare() {
    const Stopwatch watch;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        statistics_.wait_seconds = elapsed();
    }
    Session &decoder = conversation_->decoder();
    const ConversationOptions &options = conversation_->options();
    PreparedQuestion prepared =
        prepare_question(question_, options, conversation_->model(), begin_length_, decoder.context_length(),
                         [this](const std::string &sentence) { warn(sentence); });
    {
        const std::lock_guard<std::mutex> lock(lock_);
        statistics_.preprocess_seconds = watch.seconds();
        statistics_.pictures = static_cast<uint32_t>(prepared.pictures.size());
        statistics_.tiles = prepared.tiles;
        statistics_.text_tokens = prepared.text_tokens;
        statistics_.siglip_tokens = prepared.siglip_tokens;
        statistics_.eagle_tokens = prepared.eagle_tokens;
    }
    if (!prepared.planned.empty()) {
        conversation_->model().check_memory(options, prepared.planned, prepared.video);
        encode(prepared);
    }
    prefill(prepared);
    stream_.emplace(conversation_->model().tokenizer());
    marks_.push_back({decoder.length(), 0});
    note_counters();
}

void Answer::encode(PreparedQuestion &prepared) {
    const Model &model = conversation_->model();
    VisionEvents events;
    events.progress = [this](VisionStage stage, uint64_t done, uint64_t total) {
        const v2e_event_kind kind = stage == VisionStage::siglip  ? V2E_EVENT_TILE
                                    : stage == VisionStage::eagle ? V2E_EVENT_PICTURE
                                                                  : V2E_EVENT_LOAD;
        return report(kind, done, total);
    };
    events.layer = [this](size_t done, size_t total) { return report(V2E_EVENT_LAYER, done, total); };
    events.notice = [this](const std::string &sentence) {
        warn(sentence);
        return true;
    };
    EncodedPictures encoded = model.vision().encode(prepared.planned, vision_stop_, events);
    prepared.embeddings = std::move(encoded.embeddings);
    const std::lock_guard<std::mutex> lock(lock_);
    statistics_.vision_cache_hits = static_cast<uint32_t>(encoded.hits);
    statistics_.vision_cache_bytes = model.vision().cache().used_bytes();
    statistics_.vision_load_seconds = encoded.times.load;
    statistics_.preprocess_seconds += encoded.times.preprocess;
    statistics_.siglip_seconds = encoded.times.siglip;
    statistics_.projector_seconds = encoded.times.projector;
    statistics_.eagle_seconds = encoded.times.eagle;
    if (encoded.vocabulary && encoded.vocabulary->tokens > 0) {
        const double entries =
            static_cast<double>(model.visual_vocabulary()) * static_cast<double>(encoded.vocabulary->tokens);
        statistics_.dropped_mass = encoded.vocabulary->dropped_mass;
        statistics_.vocabulary_share = static_cast<double>(encoded.vocabulary->multiplied) / entries;
    }
}

void Answer::prefill(const PreparedQuestion &prepared) {
    const Stopwatch watch;
    std::vector<v2e_segment> segments;
    size_t picture = 0;
    for (const std::span<const int32_t> run : split_at_pictures(prepared.ids)) {
        if (!segments.empty()) {
            const PictureEmbeddings &embeddings = *prepared.embeddings[picture++];
            segments.push_back({nullptr, embeddings.values.data(), embeddings.tokens});
        }
        segments.push_back({run.data(), nullptr, run.size()});
    }
    const auto hear = [](const v2e_event *event, void *answer) {
        return static_cast<Answer *>(answer)->report(V2E_EVENT_PREFILL, event->done, event->total) ? 0 : 1;
    };
    conversation_->decoder().prefill(segments.data(), segments.size(), 1, {hear, this});
    conversation_->note_length();
    const std::lock_guard<std::mutex> lock(lock_);
    statistics_.prefill_seconds = watch.seconds();
}

Work::Next Answer::decode() {
    v2e_stop_reason reason = V2E_STOP_NONE;
    const std::optional<int32_t> token = choose(reason);
    if (!token) {
        finish_text(reason);
        return Next::rest;
    }
    ++tokens_;
    const size_t length = conversation_->decoder().length();
    const std::string piece = stream_->push(*token);
    streamed_bytes_ += piece.size();
    marks_.push_back({length, streamed_bytes_});
    std::vector<Event> told;
    if (question_.token_events)
        told.push_back(token_event(*token));
    add_text(stops_ ? stops_->push(piece) : piece, told);
    push(std::move(told));
    if (stops_ && stops_->stopped()) {
        end(V2E_STOP_TEXT, length_of_text(told_bytes_));
        return Next::rest;
    }
    if (tokens_ == question_.max_new_tokens) {
        finish_text(V2E_STOP_LENGTH);
        return Next::rest;
    }
    return must_rest() ? Next::rest : Next::again;
}

// The next token, decoded; nothing: the answer has ended, and `reason` says why. What was drafted and checked beyond
// it, the next calls take without a step.
std::optional<int32_t> Answer::choose(v2e_stop_reason &reason) {
    const Stopwatch watch;
    Session &decoder = conversation_->decoder();
    const size_t before = decoder.length();
    v2e_generate_options options = question_.sampling;
    options.struct_size = sizeof options;
    options.max_new_tokens = 1;
    options.seed = seed_of_step(question_.seed, tokens_);
    options.stop_tokens = conversation_->model().stop_tokens().data();
    options.stop_token_count = conversation_->model().stop_tokens().size();
    options.tokens_to_follow = question_.max_new_tokens - static_cast<uint32_t>(tokens_) - 1;
    std::optional<int32_t> token;
    const auto hear = [](const v2e_event *event, void *chosen) {
        *static_cast<std::optional<int32_t> *>(chosen) = event->token;
        return 0;
    };
    try {
        reason = decoder.generate(options, {hear, &token});
    } catch (const Failure &) {
        if (decoder.length() > before)
            decoder.truncate(before); // what nobody will see is not in the context
        conversation_->note_length();
        throw;
    }
    conversation_->note_length();
    note_counters();
    const std::lock_guard<std::mutex> lock(lock_);
    statistics_.decode_seconds += watch.seconds();
    if (token) {
        if (tokens_ == 0)
            statistics_.first_token_seconds = elapsed();
        statistics_.new_tokens = tokens_ + 1;
    }
    return token;
}

Answer::Event Answer::token_event(int32_t token) const {
    Event event{};
    event.kind = V2E_EVENT_TOKEN;
    event.done = tokens_;
    event.total = question_.max_new_tokens;
    event.token = token;
    event.length = conversation_->decoder().length();
    return event;
}

void Answer::add_text(std::string_view text, std::vector<Event> &told) {
    if (text.empty())
        return;
    told_bytes_ += text.size();
    Event event{};
    event.kind = V2E_EVENT_TEXT;
    event.text = text;
    event.length = length_of_text(told_bytes_);
    told.push_back(std::move(event));
}

void Answer::tell_text(std::string_view text) {
    std::vector<Event> told;
    add_text(text, told);
    push(std::move(told));
}

void Answer::finish_text(v2e_stop_reason reason) {
    const size_t length = conversation_->decoder().length();
    const std::string rest = stream_->finish();
    streamed_bytes_ += rest.size();
    marks_.push_back({length, streamed_bytes_});
    tell_text(stops_ ? stops_->push(rest) : rest);
    if (stops_ && stops_->stopped()) {
        end(V2E_STOP_TEXT, length_of_text(told_bytes_));
        return;
    }
    if (stops_)
        tell_text(stops_->finish());
    end(reason, length);
}

// Positions whose tokens have given so much text and no more: the first that do, or else the last that have not.
size_t Answer::length_of_text(size_t bytes) const {
    const auto reached = std::lower_bound(marks_.begin(), marks_.end(), bytes,
                                          [](const TextMark &mark, size_t wanted) { return mark.bytes < wanted; });
    if (reached != marks_.end() && (reached->bytes == bytes || reached == marks_.begin()))
        return reached->length;
    return std::prev(reached)->length;
}

void Answer::note_counters() {
    const v2e_decoder_session_counters &now = conversation_->decoder().counters();
    const uint64_t kept = conversation_->model().decoder().prefixes().kept_bytes();
    const std::lock_guard<std::mutex> lock(lock_);
    statistics_.decode_steps = now.steps - begin_counters_.steps;
    statistics_.drafted_tokens = now.drafted_tokens - begin_counters_.drafted_tokens;
    statistics_.accepted_tokens = now.accepted_tokens - begin_counters_.accepted_tokens;
    statistics_.reused_tokens = now.reused_positions - begin_counters_.reused_positions;
    statistics_.context_used = conversation_->decoder().length();
    statistics_.prefix_cache_bytes = kept;
}

bool Answer::is_stopped() const {
    if (question_.cancel != nullptr && question_.cancel->is_set())
        return true;
    const std::lock_guard<std::mutex> lock(lock_);
    return cancelled_ || left_;
}

void Answer::require_going() const {
    if (is_stopped())
        fail(V2E_ERROR_CANCELLED, "The answer was cancelled.");
}

// Between two pieces of a long step: others' tokens go in between.
bool Answer::report(v2e_event_kind kind, uint64_t done, uint64_t total) {
    Event event{};
    event.kind = kind;
    event.done = done;
    event.total = total;
    push(std::move(event));
    conversation_->model().engine().let_others();
    return !is_stopped();
}

void Answer::warn(const std::string &sentence) {
    Event event{};
    event.kind = V2E_EVENT_WARNING;
    event.text = sentence;
    push(std::move(event));
}

void Answer::push(Event event) {
    std::vector<Event> told;
    told.push_back(std::move(event));
    push(std::move(told));
}

// Together: who has read the first finds the others.
void Answer::push(std::vector<Event> told) {
    if (told.empty())
        return;
    bool was_empty = false;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        if (left_)
            return; // nobody reads it
        was_empty = events_.empty();
        for (Event &event : told) {
            event.elapsed_ms = elapsed() * 1000;
            event.tokens = tokens_;
            const bool replaces =
                !events_.empty() && events_.back().kind == event.kind && may_replace(event.kind, events_.size());
            if (replaces)
                events_.back() = std::move(event);
            else
                events_.push_back(std::move(event));
        }
        told_.notify_all();
    }
    if (was_empty && question_.notify != nullptr)
        question_.notify(question_.notify_data);
}

void Answer::end(v2e_stop_reason reason, size_t length) {
    {
        const std::lock_guard<std::mutex> lock(lock_);
        if (over_)
            return;
        over_ = true;
        if (reason != V2E_STOP_CANCELLED)
            end_length_ = length;
        statistics_.stop = reason;
        statistics_.total_seconds = elapsed();
        statistics_.peak_memory_bytes = peak_resident_bytes();
    }
    Event event{};
    event.kind = V2E_EVENT_END;
    event.reason = reason;
    push(std::move(event));
}

void Answer::fail_with(v2e_status status, std::string message) {
    bool was_empty = false;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        over_ = true;
        failure_ = status;
        failure_message_ = std::move(message);
        statistics_.total_seconds = elapsed();
        statistics_.peak_memory_bytes = peak_resident_bytes();
        was_empty = events_.empty();
        told_.notify_all();
    }
    if (was_empty && question_.notify != nullptr)
        question_.notify(question_.notify_data);
}

// A reader that wants no more than some tokens ahead of it, and has text to read, adds the answer again.
bool Answer::must_rest() {
    if (question_.most_ahead == 0)
        return false;
    const std::lock_guard<std::mutex> lock(lock_);
    const bool readable = std::any_of(events_.begin(), events_.end(), [](const Event &event) {
        return event.kind == V2E_EVENT_TEXT || event.kind == V2E_EVENT_TOKEN;
    });
    resting_ = readable && !cancelled_ && !left_ && tokens_ - read_tokens_ >= question_.most_ahead;
    return resting_;
}

v2e_event Answer::next(uint32_t timeout_ms) {
    std::unique_lock<std::mutex> lock(lock_);
    if (!wait(lock, timeout_ms))
        return hand_out(Event{});
    if (events_.empty()) {
        if (end_)
            return hand_out(*end_);
        throw Failure{failure_, failure_message_};
    }
    Event event = std::move(events_.front());
    events_.pop_front();
    if (event.kind == V2E_EVENT_TEXT || event.kind == V2E_EVENT_TOKEN) {
        read_length_ = event.length;
        read_tokens_ = event.tokens;
        read_text_ += event.text;
    }
    if (event.kind == V2E_EVENT_END)
        end_ = event;
    const bool over = event.kind == V2E_EVENT_END;
    if (std::exchange(resting_, false)) // and not left, which is no rest
        conversation_->model().engine().add(shared_from_this());
    lock.unlock();
    if (over)
        conversation_->settle(*this, event.reason);
    return hand_out(std::move(event));
}

v2e_event Answer::hand_out(Event event) {
    current_text_ = std::move(event.text);
    v2e_event given{};
    given.struct_size = sizeof given;
    given.kind = event.kind;
    given.done = event.done;
    given.total = event.total;
    given.token = event.token;
    given.elapsed_ms = event.elapsed_ms;
    given.text = current_text_.c_str();
    given.size = current_text_.size();
    given.reason = event.reason;
    return given;
}

v2e_statistics Answer::statistics() const {
    const std::lock_guard<std::mutex> lock(lock_);
    v2e_statistics statistics = statistics_;
    if (!over_)
        statistics.total_seconds = elapsed();
    return statistics;
}

void Answer::cancel() {
    Engine &engine = conversation_->model().engine();
    {
        const std::lock_guard<std::mutex> lock(lock_);
        if (over_ || left_)
            return; // the conversation may be at another question
        cancelled_ = true;
        vision_stop_.set();
        conversation_->decoder().cancel();
        // One that waits for its reader, or for its turn, would not hear it.
        if (std::exchange(resting_, false)) {
            engine.add(shared_from_this());
            return;
        }
    }
    if (engine.take(this))
        end(V2E_STOP_CANCELLED, 0);
}

// Waits until there is something to give, and obeys the question's own cancel handle, which wakes nobody. Returns
// whether there is.
bool Answer::wait(std::unique_lock<std::mutex> &lock, uint32_t timeout_ms) {
    const auto ready = [this] { return !events_.empty() || end_ || failure_ != V2E_OK; };
    if (question_.cancel == nullptr && timeout_ms == V2E_FOREVER) {
        told_.wait(lock, ready);
        return true;
    }
    constexpr uint32_t SLICE_MS = 20;
    for (uint32_t left = timeout_ms; !ready();) {
        if (question_.cancel != nullptr && question_.cancel->is_set() && !cancelled_) {
            lock.unlock();
            cancel();
            lock.lock();
            continue;
        }
        const uint32_t slice = question_.cancel == nullptr ? left : std::min(left, SLICE_MS);
        if (told_.wait_for(lock, std::chrono::milliseconds(slice), ready))
            return true;
        left -= timeout_ms == V2E_FOREVER ? 0 : slice;
        if (left == 0)
            return false;
    }
    return true;
}

void Answer::leave() {
    conversation_->settle(*this, V2E_STOP_LEFT);
    conversation_->model().engine().remove(this); // it may have been settled before, and hear of that only now
}

// Nothing of it runs when this returns, and nothing is told any more.
Settlement Answer::settle(v2e_stop_reason reason) {
    {
        const std::lock_guard<std::mutex> lock(lock_);
        left_ = true;
        resting_ = false;
        if (!over_) {
            vision_stop_.set();
            conversation_->decoder().cancel();
        }
    }
    conversation_->model().engine().remove(this);
    const std::lock_guard<std::mutex> lock(lock_);
    over_ = true;
    const bool unread =
        std::any_of(events_.begin(), events_.end(), [](const Event &event) { return event.kind == V2E_EVENT_TEXT; });
    Settlement settlement;
    settlement.text = read_text_;
    if (failure_ == V2E_OK)
        settlement.length = end_length_ && !unread ? end_length_ : read_length_;
    if (!end_ && failure_ == V2E_OK) {
        Event last{};
        last.kind = V2E_EVENT_END;
        last.elapsed_ms = elapsed() * 1000;
        last.reason = end_length_ && !unread ? static_cast<v2e_stop_reason>(statistics_.stop) : reason;
        statistics_.stop = last.reason;
        if (statistics_.total_seconds == 0)
            statistics_.total_seconds = elapsed();
        end_ = last;
    }
    events_.clear();
    told_.notify_all();
    return settlement;
}

void Answer::note_settled(size_t length, uint64_t kv_bytes) {
    const std::lock_guard<std::mutex> lock(lock_);
    statistics_.context_used = length;
    statistics_.kv_bytes = kv_bytes;
}

} // namespace v2e
