// What computes the positions of one session: the threads of the CPU, a GPU, or a backend.
#pragma once

#include "cpu/attention/attention.hpp"
#include "decoder/decoder.hpp"
#include "decoder/forward.hpp"
#include "decoder/kv_cache.hpp"
#include "decoder/narrowing.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace v2e {

// Holds the keys and values of a session's positions and the activations of the chunk that is computed.
class Executor {
  public:
    Executor() = default;
    virtual ~Executor() = default;
    Executor(const Executor &) = delete;
    Executor &operator=(const Executor &) = delete;

    // Positions that are best computed together in a prefill, unless the options say otherwise.
    virtual size_t default_chunk() const = 0;
    // Reserves memory for the keys and values of `positions`, and for a chunk of `rows`.
    virtual void reserve_positions(size_t positions) = 0;
    virtual void reserve_rows(size_t rows) = 0;
    // Frees what the keys and values of `positions` do not need. Returns whether there was any.
    virtual bool trim(size_t positions) = 0;
    // Where all keys and values are, if they are with the CPU; else null.
    virtual KvCache *host_cache() { return nullptr; }
    virtual uint64_t kv_bytes() const = 0;
    virtual uint64_t kv_bytes_of(size_t positions) const = 0;

    // Where the embeddings of the next chunk go, (rows, hidden_size).
    virtual float *embeddings() = 0;
    // Puts the chunk's keys and values into the cache, which has room for them, and computes the logits. Returns false
    // when call.best is filled in and the logits are not: read_logits has them until the next call. Fails with
    // V2E_ERROR_CANCELLED and V2E_ERROR_NUMERIC.
    virtual bool run(const ForwardCall &call) = 0;
    // The session's flag was set, from any thread: a run that does not look at it returns soon.
    virtual void interrupt() noexcept {}
    // Rows [first, first + count) of the logits of the last step, (count, vocabulary_size).
    virtual void read_logits(size_t first, size_t count, float *logits) = 0;
    // Candidates of a row of the last step whose logits run left behind, (narrowing.count,), in any order.
    virtual void narrow(size_t row, const Narrowing &narrowing, Candidate *candidates) = 0;
};

} // namespace v2e
