// One conversation: its KV cache, its token ids and the logits from which the next token is chosen.
#pragma once

#include "decoder.hpp"
#include "draft_plan.hpp"
#include "forward.hpp"
#include "kv_cache.hpp"
#include "sampler.hpp"
#include "token_history.hpp"
#include "valley2.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e {

struct EventSink {
    v2e_event_callback callback; // may be null
    void *user_data;
};

// The methods mean what valley2.h says of the functions of the same names.
class Session {
  public:
    Session(const Decoder &decoder, const v2e_session_options &options);

    void prefill(const v2e_segment *segments, size_t segment_count, size_t logit_rows, EventSink sink);
    void logits(size_t rows, float *target) const;
    v2e_stop_reason generate(const v2e_generate_options &options, EventSink sink);
    void truncate(size_t length);

    size_t length() const { return history_.length(); }
    uint64_t kv_bytes() const { return cache_.bytes(); }
    const v2e_session_counters &counters() const { return counters_; }
    uint64_t kv_bytes_of(size_t positions) const { return cache_.bytes_of(positions); }
    size_t context_length() const { return context_length_; }
    size_t prefill_chunk() const { return prefill_chunk_; }
    void cancel() { cancelled_.store(true); }
    void resume() { cancelled_.store(false); }

  private:
    class Turn;
    class Progress;

    size_t count_positions(const v2e_segment *segments, size_t segment_count) const;
    void check_room(size_t positions) const;
    void check_cancelled() const;
    size_t kept_rows() const;
    size_t draft_left() const { return step_.empty() ? 0 : step_.size() - 1 - row_; }
    void drop_draft() { step_.resize(step_.size() - draft_left()); }
    void learn_from(int32_t token);
    void decode(int32_t token, size_t most_drafted, bool always, const Sampler &sampler);
    void make_step(int32_t token, size_t drafted, const Sampler &sampler);
    void run_step(size_t position);
    void forget_logits();

    const Decoder &decoder_;
    size_t context_length_;
    size_t prefill_chunk_;
    KvCache cache_;
    ForwardScratch scratch_;
    TokenHistory history_; // one token a position, NO_TOKEN for an embedding that the caller gave
    DraftPlan plan_;
    std::vector<int32_t> step_; // of the last decode step: a token and its draft; empty after a prefill
    std::vector<float> logits_; // (rows, vocabulary_size): of the last prefill's end, or of the tokens of step_
    size_t row_ = 0;            // of the session's last position; the draft behind it is in the cache but not chosen
    v2e_session_counters counters_{};
    std::atomic<bool> cancelled_{false};
    std::atomic<bool> busy_{false};
};

} // namespace v2e
