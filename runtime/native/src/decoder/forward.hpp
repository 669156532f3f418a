// Computes one chunk of positions with the layers of the decoder.
#pragma once

#include "base/platform.hpp"
#include "base/stop_flag.hpp"
#include "decoder/decoder.hpp"
#include "decoder/kv_cache.hpp"

#include <cstddef>

namespace v2e {

// The activations of one chunk. Belongs to a session and is allocated for its largest chunk.
struct ForwardScratch {
    size_t rows = 0;
    AlignedBuffer<float> hidden;    // (rows, hidden_size): the residual stream
    AlignedBuffer<float> normed;    // (rows, hidden_size): after a norm
    AlignedBuffer<float> qkv;       // (rows, qkv_size)
    AlignedBuffer<float> attended;  // (rows, query_size)
    AlignedBuffer<float> cosine;    // (rows, head_size / 2)
    AlignedBuffer<float> sine;      // (rows, head_size / 2)
    AlignedBuffer<float> attention; // (threads, attention_scratch_floats)
    AlignedBuffer<float> partials;  // (tasks, segments, attention_partial_floats), where keys are split among threads
    LinearScratch linear;

    void reserve(const Decoder &decoder, size_t row_count);
};

// Floats of partials that steps of up to `rows` positions need in a context of `positions`; 0 where no keys are split.
size_t split_attention_floats(const DecoderConfig &config, size_t rows, size_t positions, size_t threads);

struct ForwardCall {
    size_t position;      // where the chunk's first row stands in the session
    size_t count;         // rows of scratch.hidden that hold embeddings
    size_t logit_rows;    // rows at the chunk's end that get logits; 0 to count
    float *logits;        // (logit_rows, vocabulary_size)
    const StopFlag *stop; // looked at between two pieces of work; may be null
    size_t first_layer;   // that the rows have not been through; the cache holds no layers before it
    bool step;            // a decode step: at most 16 rows, and all have logits
    int32_t *best;        // (logit_rows,): of a step whose logits may stay with the executor: the largest; else null
};

// Puts the chunk's keys and values into the cache, which has room for them, and computes the logits. The bits of a row
// do not depend on the chunk that it is in. Fails with V2E_ERROR_CANCELLED and V2E_ERROR_NUMERIC.
void forward(const Decoder &decoder, KvCache &cache, ForwardScratch &scratch, const ForwardCall &call);

} // namespace v2e
