// One conversation: its KV cache, its token ids and the logits from which the next token is chosen.
#pragma once

#include "decoder/executor.hpp"
#include "decoder/forward.hpp"
#include "decoder/kv_cache.hpp"
#include "decoder/language_model.hpp"
#include "generation/draft_plan.hpp"
#include "generation/prefix_cache.hpp"
#include "generation/sampler.hpp"
#include "generation/session_file.hpp"
#include "generation/token_history.hpp"
#include "valley2_parts.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace v2e {

struct EventSink {
    v2e_event_callback callback; // may be null
    void *user_data;
};

// The methods mean what valley2.h says of the functions of the same names.
class Session {
  public:
    // `prefixes` outlives the session; null: it shares nothing.
    Session(const LanguageModel &model, const v2e_decoder_session_options &options, PrefixCache *prefixes = nullptr);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    void prefill(const v2e_segment *segments, size_t segment_count, size_t logit_rows, EventSink sink);
    void logits(size_t rows, float *target) const;
    v2e_stop_reason generate(const v2e_generate_options &options, EventSink sink);
    void truncate(size_t length);
    // For a session of a model that is savable, and so is `load`. What the file says of the session beside its arrays
    // is the caller's, but for precision, context and chunk.
    void save(const std::string &path, SavedSession about);
    // For a session that is new, has the file's precision and shares nothing: whoever wrote the file answers for what
    // it holds.
    void load(const SessionFile &file);

    size_t length() const { return history_.length(); }
    uint64_t kv_bytes() const { return executor_->kv_bytes(); }
    const v2e_decoder_session_counters &counters() const { return counters_; }
    uint64_t kv_bytes_of(size_t positions) const { return executor_->kv_bytes_of(positions); }
    const std::string &note() const { return note_; }
    size_t context_length() const { return context_length_; }
    size_t prefill_chunk() const { return prefill_chunk_; }
    // From any thread.
    void cancel() {
        stop_.set();
        executor_->interrupt();
    }
    void resume() { stop_.clear(); }
    StopFlag &stop_flag() { return stop_; }

  private:
    class Turn;
    class Progress;

    size_t count_positions(const v2e_segment *segments, size_t segment_count) const;
    void check_room(size_t positions) const;
    void catch_up(const StopFlag *stop);
    std::vector<PositionKey> keys_with(const v2e_segment *segments, size_t segment_count, size_t total) const;
    size_t reuse(const std::vector<PositionKey> &keys, size_t most);
    void reserve_cache(size_t first_written, size_t positions);
    void share() noexcept;
    size_t kept_rows() const;
    size_t draft_left() const { return step_.empty() ? 0 : step_.size() - 1 - row_; }
    void drop_draft() { step_.resize(step_.size() - draft_left()); }
    void append(int32_t token);
    void learn_from(int32_t token);
    void decode(int32_t token, size_t most_drafted, bool always, const Sampler &sampler);
    void make_step(int32_t token, size_t drafted, const Sampler &sampler);
    void run_step(size_t position, bool leave_logits, const StopFlag *stop);
    bool compute(const ForwardCall &call);
    int32_t choose(Sampler &sampler);
    void fetch_logits();
    void forget_logits();

    const LanguageModel &model_;
    size_t context_length_;
    size_t prefill_chunk_;
    std::unique_ptr<Executor> executor_;
    TokenHistory history_;          // one token a position, NO_TOKEN for an embedding that the caller gave
    std::vector<PositionKey> keys_; // one a position
    PrefixCache *prefixes_;         // the model's; null: this session shares nothing
    DraftPlan plan_;
    std::vector<int32_t> step_; // tokens of the last decode step: one and its draft; empty after a prefill
    std::vector<float> logits_; // (rows, vocabulary_size): of the last prefill's end, or of the tokens of step_
    std::vector<int32_t> best_; // (rows,): tokens with the largest logits, of a step whose logits the executor kept
    std::vector<Candidate> narrowed_; // candidates of a row of such a step
    bool kept_behind_ = false;        // they are not in logits_
    bool undecoded_ = false;          // a cancel cut the last token's step short: it is not in the cache
    size_t row_ = 0; // the row of the session's last position; the draft behind it is in the cache but not chosen
    v2e_decoder_session_counters counters_{};
    std::string note_; // the note in the file that the session was loaded from
    StopFlag stop_;
    std::atomic<bool> busy_{false};
};

} // namespace v2e
