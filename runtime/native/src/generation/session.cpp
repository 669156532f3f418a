#include "generation/session.hpp"

#include "base/error.hpp"
#include "base/saturating.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

namespace v2e {
namespace {

constexpr int32_t NO_TOKEN = -1;
constexpr size_t MOST_PREFILL_CHUNK = 1 << 16;

// Copies the positions of segments into the rows of a chunk, one chunk after the other.
class SegmentReader {
  public:
    SegmentReader(const LanguageModel &model, const v2e_segment *segments) : model_(model), segment_(segments) {}

    // The next `count` positions, which exist, to rows (count, hidden_size).
    void read(size_t count, float *rows) {
        const size_t hidden = model_.sizes().hidden_size;
        while (count > 0) {
            const size_t step = next(count);
            if (segment_->tokens != nullptr)
                model_.embeddings().embed(segment_->tokens + done_, step, rows);
            else
                std::memcpy(rows, segment_->embeddings + done_ * hidden, step * hidden * sizeof(float));
            rows += step * hidden;
            done_ += step;
            count -= step;
        }
    }

    // Leaves out the next `count` positions, which exist.
    void skip(size_t count) {
        while (count > 0) {
            const size_t step = next(count);
            done_ += step;
            count -= step;
        }
    }

  private:
    // How many of the next `count` positions are in one segment, which becomes the current one.
    size_t next(size_t count) {
        while (done_ == segment_->count) {
            ++segment_;
            done_ = 0;
        }
        return std::min(count, segment_->count - done_);
    }

    const LanguageModel &model_;
    const v2e_segment *segment_;
    size_t done_ = 0; // positions of the segment
};

} // namespace

// A call that changes the session. There is one at a time: a callback or another thread is refused.
class Session::Turn {
  public:
    explicit Turn(Session &session) : session_(session) {
        if (session.busy_.exchange(true))
            fail(V2E_ERROR_INPUT, "The session is busy with another call.");
        session.stop_.begin_call();
    }
    ~Turn() {
        // Pages that a failed call does not need.
        if (session_.executor_->trim(session_.length() + session_.draft_left()) && session_.prefixes_ != nullptr)
            session_.prefixes_->trim();
        session_.busy_.store(false);
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

  private:
    Session &session_;
};

// Reports events with the time since the call began.
class Session::Progress {
  public:
    Progress(EventSink sink, v2e_event_kind kind, uint64_t total)
        : sink_(sink), kind_(kind), total_(total), begin_(std::chrono::steady_clock::now()) {}

    // Returns false when the callback wants to stop.
    bool report(uint64_t done, int32_t token) const {
        if (sink_.callback == nullptr)
            return true;
        v2e_event event{};
        event.struct_size = sizeof event;
        event.kind = kind_;
        event.done = done;
        event.total = total_;
        event.token = token;
        const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin_;
        event.elapsed_ms = elapsed.count();
        return sink_.callback(&event, sink_.user_data) == 0;
    }

  private:
    EventSink sink_;
    v2e_event_kind kind_;
    uint64_t total_;
    std::chrono::steady_clock::time_point begin_;
};

Session::Session(const LanguageModel &model, const v2e_decoder_session_options &options, PrefixCache *prefixes)
    : model_(model), context_length_(options.context_length), prefill_chunk_(options.prefill_chunk),
      prefixes_(options.reuse == V2E_REUSE_OFF ? nullptr : prefixes) {
    if (options.reuse > V2E_REUSE_OFF)
        fail(V2E_ERROR_INPUT, "reuse is %u, which is no v2e_reuse.", static_cast<unsigned>(options.reuse));
    const size_t most = model.sizes().max_context;
    if (context_length_ == 0)
        context_length_ = most;
    if (context_length_ > most)
        fail(V2E_ERROR_INPUT, "context_length is %zu, but the model was trained for %zu positions.", context_length_,
             most);
    executor_ = model.make_executor(options.kv_precision, context_length_);
    if (executor_->host_cache() == nullptr)
        prefixes_ = nullptr; // only pages in the process's memory are shared
    if (prefill_chunk_ == 0)
        prefill_chunk_ = executor_->default_chunk();
    if (prefill_chunk_ > MOST_PREFILL_CHUNK)
        fail(V2E_ERROR_INPUT, "prefill_chunk is %zu; at most %zu positions are possible.", prefill_chunk_,
             MOST_PREFILL_CHUNK);
}

Session::~Session() {
    if (prefixes_ == nullptr)
        return;
    share();
    executor_->trim(0);
    prefixes_->trim();
}

// The keys of the session's positions, and behind them those of the segments.
std::vector<PositionKey> Session::keys_with(const v2e_segment *segments, size_t segment_count, size_t total) const {
    const size_t hidden = model_.sizes().hidden_size;
    std::vector<PositionKey> keys;
    keys.reserve(length() + total);
    keys = keys_;
    for (size_t i = 0; i < segment_count; ++i)
        for (size_t j = 0; j < segments[i].count; ++j)
            keys.push_back(segments[i].tokens != nullptr
                               ? key_of_token(segments[i].tokens[j])
                               : key_of_embedding(segments[i].embeddings + j * hidden, hidden));
    return keys;
}

// Puts what is known of keys[0, most) into the cache. Returns how many positions beyond the session's that are.
size_t Session::reuse(const std::vector<PositionKey> &keys, size_t most) {
    if (prefixes_ == nullptr)
        return 0;
    KvCache &cache = *executor_->host_cache();
    const PrefixCache::Match match = prefixes_->find(cache.precision(), keys, most);
    if (match.positions <= length())
        return 0;
    executor_->reserve_positions(match.positions);
    for (size_t index = length() / KV_PAGE; index < match.pages.size(); ++index)
        cache.replace(index, match.pages[index]);
    return match.positions - length();
}

// Reserves memory, with pages that have no other owner from a position on.
void Session::reserve_cache(size_t first_written, size_t positions) {
    executor_->reserve_positions(positions);
    if (prefixes_ == nullptr)
        return;
    KvCache &cache = *executor_->host_cache();
    bool copied = false;
    for (size_t index = first_written / KV_PAGE; index * KV_PAGE < positions; ++index) {
        if (!cache.shared(index))
            continue;
        prefixes_->before_copy(cache.page(index));
        if (cache.shared(index))
            cache.copy_page(index);
        copied = true;
    }
    if (copied)
        prefixes_->trim();
}

// Puts the pages into the prefix cache, for other sessions and for a later turn of this one.
void Session::share() noexcept {
    if (prefixes_ == nullptr || keys_.empty())
        return;
    const PositionKey last = keys_.back();
    keys_.resize(keys_.size() - undecoded_);
    try {
        prefixes_->insert(keys_, *executor_->host_cache());
    } catch (const std::bad_alloc &) {
        prefixes_->trim(); // sharing is optional: its failure must not fail the call
    }
    if (undecoded_)
        keys_.push_back(last); // where it was: this needs no memory
}

size_t Session::count_positions(const v2e_segment *segments, size_t segment_count) const {
    if (segments == nullptr && segment_count > 0)
        fail(V2E_ERROR_INPUT, "segment_count is %zu but segments is NULL.", segment_count);
    if (!is_aligned(segments))
        fail(V2E_ERROR_INPUT, "The segments are not aligned to the %zu bytes of their fields.", alignof(v2e_segment));
    size_t total = 0;
    for (size_t i = 0; i < segment_count; ++i) {
        const v2e_segment &segment = segments[i];
        if (segment.count == 0)
            continue;
        if ((segment.tokens == nullptr) == (segment.embeddings == nullptr))
            fail(V2E_ERROR_INPUT, "Segment %zu must have either tokens or embeddings.", i);
        if (!is_aligned(segment.tokens) || !is_aligned(segment.embeddings))
            fail(V2E_ERROR_INPUT, "The values of segment %zu are not aligned to their 4 bytes.", i);
        check_room((Saturating(total) + segment.count).value());
        total += segment.count; // within the context
        if (segment.tokens != nullptr)
            model_.embeddings().check_tokens(segment.tokens, segment.count);
    }
    if (total == 0)
        fail(V2E_ERROR_INPUT, "There is nothing to prefill: the segments have no positions.");
    return total;
}

void Session::check_room(size_t positions) const {
    if (positions > context_length_ || length() > context_length_ - positions)
        fail(V2E_ERROR_BUDGET, "The prompt needs %zu positions after the %zu in use, but the context holds %zu.",
             positions, length(), context_length_);
}

// Decodes the last token where a cancel cut that short.
void Session::catch_up(const StopFlag *stop) {
    if (!undecoded_)
        return;
    executor_->reserve_rows(1);
    reserve_cache(length() - 1, length());
    step_.assign(1, history_.tokens().back());
    row_ = 0;
    run_step(length() - 1, false, stop);
    undecoded_ = false;
    ++counters_.steps;
    ++counters_.tokens;
}

void Session::prefill(const v2e_segment *segments, size_t segment_count, size_t logit_rows, EventSink sink) {
    const Turn turn(*this);
    const size_t total = count_positions(segments, segment_count);
    const size_t kept = std::min(std::max<size_t>(logit_rows, 1), total);
    const size_t first_kept = total - kept;
    const size_t vocabulary = model_.sizes().vocabulary_size;
    const Progress progress(sink, V2E_EVENT_PREFILL, total);
    require_going(&stop_);
    catch_up(&stop_);
    drop_draft();   // the prompt takes its place in the cache
    fetch_logits(); // and its logits those of the last step, which must stay if it fails

    std::vector<float> new_logits(kept * vocabulary);
    history_.reserve(length() + total);
    std::vector<PositionKey> keys = keys_with(segments, segment_count, total);
    const size_t reused = reuse(keys, length() + first_kept);
    reserve_cache(length() + reused, length() + total);
    executor_->reserve_rows(std::min(prefill_chunk_, total - reused));
    SegmentReader reader(model_, segments);
    reader.skip(reused);
    for (size_t done = reused; done < total;) {
        ForwardCall call{};
        call.position = length() + done;
        call.count = std::min(prefill_chunk_, total - done);
        const size_t end = done + call.count, first_row = std::max(done, first_kept); // with logits
        call.logit_rows = end - std::min(end, first_row);
        call.logits = new_logits.data() + (first_row - first_kept) * vocabulary;
        call.stop = &stop_;
        reader.read(call.count, executor_->embeddings()); // (count, hidden_size)
        compute(call);
        done = end;
        if (!progress.report(done, 0))
            fail(V2E_ERROR_CANCELLED, "The call was cancelled by its callback.");
    }
    for (size_t i = 0; i < segment_count; ++i)
        for (size_t j = 0; j < segments[i].count; ++j)
            history_.append(segments[i].tokens != nullptr ? segments[i].tokens[j] : NO_TOKEN);
    keys_.swap(keys);
    logits_.swap(new_logits);
    kept_behind_ = false;
    step_.clear();
    row_ = kept - 1;
    counters_.prefilled_positions += total;
    counters_.reused_positions += reused;
    share();
}

// What the executor's run does. A file of the model that was changed meanwhile makes it a failure: nobody knows what
// was computed.
bool Session::compute(const ForwardCall &call) {
    try {
        const bool done = executor_->run(call);
        model_.require_intact();
        return done;
    } catch (const Failure &) {
        model_.require_intact();
        throw;
    }
}

// Rows of logits that belong to the session's last positions. Those of the tokens before it in the last step do not
// count: how many there are depends on luck.
size_t Session::kept_rows() const {
    if (logits_.empty())
        return 0;
    return step_.empty() ? row_ + 1 : 1;
}

void Session::logits(size_t rows, float *target) const {
    const size_t vocabulary = model_.sizes().vocabulary_size;
    if (rows == 0 || rows > kept_rows())
        fail(V2E_ERROR_INPUT, "%zu rows of logits were asked for, but %zu are kept.", rows, kept_rows());
    if (kept_behind_)
        executor_->read_logits(row_ + 1 - rows, rows, target);
    else
        std::copy_n(logits_.data() + (row_ + 1 - rows) * vocabulary, rows * vocabulary, target);
}

void Session::append(int32_t token) {
    history_.append(token);
    keys_.push_back(key_of_token(token));
}

// What followed the session's last tokens before, against what follows them now.
void Session::learn_from(int32_t token) {
    const int32_t follower = history_.follower(0);
    if (follower >= 0)
        plan_.note_token(history_.repeat().length, follower == token);
}

// Appends a token, and a draft behind it, whose places in the cache are reserved. It has been reported already: a
// cancel leaves it in the session, and the next call decodes it.
void Session::decode(int32_t token, size_t most_drafted, bool always, const Sampler &sampler) {
    const size_t position = length();
    append(token);
    make_step(token, always ? most_drafted : plan_.length(history_.repeat().length, most_drafted), sampler);
    const auto undo = [&](bool cut_short) {
        undecoded_ = cut_short;
        if (!undecoded_) {
            history_.truncate(position);
            keys_.resize(position);
        }
        forget_logits(); // a failure leaves none to go on from
    };
    try {
        run_step(position, sampler.narrowing().count > 0, &stop_);
    } catch (const Failure &failure) {
        undo(stop_.stops() || failure.status == V2E_ERROR_CANCELLED); // the latter also without the flag: by a backend
        throw;
    } catch (...) {
        undo(stop_.stops());
        throw;
    }
    ++counters_.steps;
    counters_.drafted_tokens += step_.size() - 1;
}

void Session::make_step(int32_t token, size_t drafted, const Sampler &sampler) {
    step_.assign(1, token);
    row_ = 0;
    for (size_t ahead = 0; ahead < drafted; ++ahead) {
        const int32_t follower = history_.follower(ahead);
        if (follower < 0 || sampler.is_stop(follower)) // the latter is never decoded
            return;
        step_.push_back(follower);
    }
}

// The logits of what follows each token of the step.
void Session::run_step(size_t position, bool leave_logits, const StopFlag *stop) {
    best_.resize(step_.size());
    logits_.resize(std::max(logits_.size(), step_.size() * model_.sizes().vocabulary_size));
    model_.embeddings().embed(step_.data(), step_.size(), executor_->embeddings());
    ForwardCall call{};
    call.position = position;
    call.count = step_.size();
    call.logit_rows = step_.size();
    call.logits = logits_.data();
    call.stop = stop;
    call.step = true;
    call.best = leave_logits ? best_.data() : nullptr;
    const auto begin = std::chrono::steady_clock::now();
    try {
        kept_behind_ = !compute(call);
    } catch (const Failure &failure) {
        if (failure.status != V2E_ERROR_NUMERIC || step_.size() == 1)
            throw;
        step_.resize(1); // a draft may lead where its token alone does not
        run_step(position, leave_logits, stop);
        return;
    }
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin;
    plan_.note_step(step_.size() - 1, elapsed.count());
}

// Chooses from the logits of the session's last position.
int32_t Session::choose(Sampler &sampler) {
    const size_t vocabulary = model_.sizes().vocabulary_size;
    if (kept_behind_ && sampler.takes_largest())
        return best_[row_];
    const Narrowing narrowing = sampler.narrowing();
    if (kept_behind_ && narrowing.count > 0) {
        narrowed_.resize(narrowing.count);
        executor_->narrow(row_, narrowing, narrowed_.data());
        return sampler.choose_narrowed(narrowed_.data(), narrowing.count);
    }
    fetch_logits();
    return sampler.choose(logits_.data() + row_ * vocabulary);
}

void Session::fetch_logits() {
    if (!kept_behind_)
        return;
    executor_->read_logits(0, step_.size(), logits_.data());
    kept_behind_ = false;
}

void Session::forget_logits() {
    logits_.clear();
    kept_behind_ = false;
    step_.clear();
    row_ = 0;
}

v2e_stop_reason Session::generate(const v2e_generate_options &options, EventSink sink) {
    const Turn turn(*this);
    const size_t vocabulary = model_.sizes().vocabulary_size;
    catch_up(&stop_);
    if (logits_.empty())
        fail(V2E_ERROR_INPUT, "There are no logits to choose a token from; prefill at least one position first.");
    if (options.speculation > V2E_SPECULATION_ALWAYS)
        fail(V2E_ERROR_INPUT, "speculation is %u, which is no v2e_speculation.",
             static_cast<unsigned>(options.speculation));
    Sampler sampler(options, vocabulary);
    for (const int32_t token : history_.tokens())
        if (token != NO_TOKEN)
            sampler.remember(token);
    const uint64_t most = options.max_new_tokens;
    const bool always = options.speculation == V2E_SPECULATION_ALWAYS;
    const size_t most_drafted = options.speculation == V2E_SPECULATION_OFF ? 0 : DraftPlan::MOST_DRAFTED;
    const Progress progress(sink, V2E_EVENT_TOKEN, most);
    executor_->reserve_rows(1 + most_drafted);
    logits_.reserve((1 + most_drafted) * vocabulary);
    step_.reserve(1 + most_drafted);
    for (uint64_t done = 0; most == 0 || done < most;) {
        require_going(&stop_);
        const int32_t token = choose(sampler);
        learn_from(token);
        if (sampler.is_stop(token)) {
            drop_draft();
            share();
            return V2E_STOP_TOKEN;
        }
        if (length() == context_length_)
            return V2E_STOP_CONTEXT;
        ++done;
        size_t drafted = std::min(most_drafted, context_length_ - length() - 1);
        if (most != 0)
            drafted = std::min<uint64_t>(drafted, most - done + options.tokens_to_follow);
        // After the report no allocation may fail.
        history_.reserve(length() + 1);
        if (keys_.size() == keys_.capacity())
            keys_.reserve(2 * keys_.size());
        reserve_cache(length(), length() + 1 + std::max(drafted, draft_left()));
        const bool go_on = progress.report(done, token);
        if (draft_left() > 0 && step_[row_ + 1] == token) {
            append(token);
            ++row_;
            ++counters_.accepted_tokens;
        } else {
            decode(token, go_on ? drafted : 0, always, sampler);
        }
        ++counters_.tokens;
        sampler.remember(token);
        if (!go_on)
            fail(V2E_ERROR_CANCELLED, "The call was cancelled by its callback.");
    }
    return V2E_STOP_LENGTH;
}

void Session::truncate(size_t length) {
    const Turn turn(*this);
    if (length > this->length())
        fail(V2E_ERROR_INPUT, "The session has %zu positions and cannot be truncated to %zu.", this->length(), length);
    share();
    undecoded_ = undecoded_ && length == this->length();
    history_.truncate(length);
    keys_.resize(length);
    forget_logits();
}

void Session::save(const std::string &path, SavedSession about) {
    const Turn turn(*this);
    const KvCache &cache = *executor_->host_cache();
    catch_up(nullptr);
    about.precision = cache.precision();
    about.context_length = context_length_;
    about.prefill_chunk = prefill_chunk_;
    const size_t vocabulary = model_.sizes().vocabulary_size;
    const float *logits = logits_.empty() ? nullptr : logits_.data() + row_ * vocabulary;
    write_session(path, about, {history_.tokens(), keys_, cache, logits, vocabulary});
}

// All of the file is checked before anything of the session changes.
void Session::load(const SessionFile &file) {
    const Turn turn(*this);
    KvCache &cache = *executor_->host_cache();
    const size_t length = file.length(), pages = (length + KV_PAGE - 1) / KV_PAGE;
    const size_t page_bytes = static_cast<size_t>(cache.bytes_of(1)), vocabulary = model_.sizes().vocabulary_size;
    if (length > context_length_)
        fail(V2E_ERROR_INPUT, "%s has %zu positions, but the context holds %zu.", file.path().c_str(), length,
             context_length_);
    const auto tokens = file.values<int32_t>("tokens", "I32", {length});
    auto keys = file.values<PositionKey>("keys", "U64", {length, 2});
    std::vector<float> logits;
    if (file.has_logits())
        logits = file.values<float>("logits", "F32", {vocabulary});
    const std::byte *kv = file.tensor("kv", "U8", {pages, page_bytes});
    file.check_sum();
    TokenHistory history;
    history.reserve(length);
    for (size_t i = 0; i < length; ++i) {
        const int32_t token = tokens[i];
        const bool known = token >= 0 && static_cast<size_t>(token) < vocabulary;
        if (token != NO_TOKEN && !known)
            file.refuse("position " + std::to_string(i) + " has the token " + std::to_string(token) +
                        ", which is outside of the vocabulary");
        if (known ? keys[i] != key_of_token(token) : !is_key_of_embedding(keys[i]))
            file.refuse("the key of position " + std::to_string(i) + " is not that of what stands there");
        history.append(token);
    }
    if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); }))
        file.refuse("its logits have a NaN or an infinity");
    std::string note = file.saved().note;
    cache.reserve(length); // the last that can fail; the turn's end gives back what it had got by then
    for (size_t i = 0; i < pages; ++i)
        std::memcpy(cache.page(i)->data(), kv + i * page_bytes, page_bytes);
    file.require_intact(); // for the last time
    history_ = std::move(history);
    keys_ = std::move(keys);
    logits_ = std::move(logits);
    note_ = std::move(note);
}

} // namespace v2e
