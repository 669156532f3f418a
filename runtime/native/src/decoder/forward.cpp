#include "decoder/forward.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace v2e {
namespace {

constexpr size_t PARALLEL_FLOATS = 1 << 15;   // fewer are done before the other threads are awake
constexpr size_t PARALLEL_PRODUCTS = 1 << 17; // likewise for the products of attention
constexpr size_t MOST_TASK_ROWS = 64;         // between two looks at the stop flag

// Runs body(row) for every row; in parallel where `floats` a row make that worth while.
template <class Body>
void for_rows(ThreadPool &pool, const StopFlag *stop, size_t count, size_t floats, Body &&body) {
    const size_t threads = count * floats < PARALLEL_FLOATS ? 1 : pool.threads();
    const size_t tasks = threads == 1 ? (count + MOST_TASK_ROWS - 1) / MOST_TASK_ROWS
                                      : std::min(count, std::max(4 * threads, count / MOST_TASK_ROWS));
    pool.run_workers(threads, tasks, stop, [&](size_t, size_t task) {
        for (size_t row = count * task / tasks; row < count * (task + 1) / tasks; ++row)
            body(row);
    });
}

// A NaN or an infinity, noticed on any thread.
class NumericCheck {
  public:
    void note(bool finite) {
        if (!finite)
            failed_.store(true, std::memory_order_relaxed);
    }
    void require(const std::string &stage) const {
        if (failed_.load(std::memory_order_relaxed))
            fail(V2E_ERROR_NUMERIC, "The decoder computed a NaN or an infinity in %s.", stage.c_str());
    }

  private:
    std::atomic<bool> failed_{false};
};

std::string in_layer(const char *stage, size_t layer) {
    return std::string("the ") + stage + " of layer " + std::to_string(layer);
}

// How the rows of a chunk become tasks: of one kv head, its query heads and some neighbouring positions. It never
// changes a result.
struct AttentionPlan {
    size_t heads;     // heads of one task
    size_t positions; // positions of one task
    size_t parts;  // parts into which a kv head's query heads are cut; 1 unless they are more than MAX_ATTENTION_ROWS
    size_t blocks; // blocks of positions
    bool splits_keys; // the segments of one task may run at once

    size_t tasks(const DecoderConfig &config) const { return config.kv_heads * parts * blocks; }
    size_t partial_floats(const DecoderConfig &config) const {
        return attention_partial_floats(positions * heads, config.head_size);
    }
};

AttentionPlan plan_attention(const DecoderConfig &config, size_t rows, size_t threads) {
    const size_t group = config.heads / config.kv_heads;
    AttentionPlan plan{};
    plan.heads = std::min(group, MAX_ATTENTION_ROWS);
    plan.parts = (group + plan.heads - 1) / plan.heads;
    plan.positions = std::min(rows, MAX_ATTENTION_ROWS / plan.heads);
    plan.blocks = (rows + plan.positions - 1) / plan.positions;
    const bool few = threads > 1 && plan.tasks(config) < 2 * threads;
    plan.splits_keys = few && plan.blocks == 1;
    if (few && plan.blocks > 1) { // smaller blocks, although each key is then read more often
        const size_t wanted = (2 * threads + config.kv_heads * plan.parts - 1) / (config.kv_heads * plan.parts);
        plan.positions = (rows + wanted - 1) / wanted;
        plan.blocks = (rows + plan.positions - 1) / plan.positions;
    }
    return plan;
}

// The chunk on its way through the layers. Rows before `first` are no longer needed: in the last layer only the keys
// and values of most positions matter.
class Chunk {
  public:
    Chunk(const Decoder &decoder, KvCache &cache, ForwardScratch &scratch, const ForwardCall &call)
        : decoder_(decoder), config_(decoder.config()), kernels_(decoder.elementwise()), cache_(cache),
          scratch_(scratch), call_(call) {
        scratch_.linear.stop = call.stop;
    }

    void run() {
        make_rotation();
        for (size_t layer = call_.first_layer; layer < config_.layers; ++layer) {
            project_qkv(layer);
            if (layer + 1 == config_.layers)
                first_ = call_.count - call_.logit_rows;
            if (first_ == call_.count)
                return;
            attend(layer);
            run_mlp(layer);
        }
        compute_logits();
    }

  private:
    size_t rows() const { return call_.count - first_; }
    float *hidden(size_t row) { return scratch_.hidden.data() + row * config_.hidden_size; }
    float *normed(size_t row) { return scratch_.normed.data() + row * config_.hidden_size; }
    float *qkv(size_t row) { return scratch_.qkv.data() + row * config_.qkv_size(); }

    void make_rotation();
    void normalise(const float *weight, const std::string &input_stage, const std::string &norm_stage);
    void project_qkv(size_t layer);
    void store_rows(size_t layer);
    void attend(size_t layer);
    void attend_heads(size_t layer);
    AttentionTask attention_task(size_t layer, const AttentionPlan &plan, size_t index);
    template <class Body>
    void for_attention(size_t threads, size_t count, Body &&body);
    void attend_tasks(size_t layer, const AttentionPlan &plan, size_t threads, NumericCheck &check);
    void attend_segments(size_t layer, const AttentionPlan &plan, NumericCheck &check);
    void run_mlp(size_t layer);
    void compute_logits();

    const Decoder &decoder_;
    const DecoderConfig &config_;
    const ElementwiseKernels &kernels_;
    KvCache &cache_;
    ForwardScratch &scratch_;
    const ForwardCall &call_;
    size_t first_ = 0;
};

// Angles in float32, as transformers has them; their cosine and sine rounded to float32.
void Chunk::make_rotation() {
    const std::vector<float> &frequencies = decoder_.inverse_frequencies();
    const size_t half = frequencies.size();
    for_rows(decoder_.pool(), call_.stop, call_.count, half * 32, [&](size_t row) {
        const auto position = static_cast<float>(call_.position + row);
        for (size_t k = 0; k < half; ++k) {
            const auto angle = static_cast<double>(position * frequencies[k]);
            scratch_.cosine[row * half + k] = static_cast<float>(std::cos(angle));
            scratch_.sine[row * half + k] = static_cast<float>(std::sin(angle));
        }
    });
}

// RMSNorm after Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", of hidden into normed.
void Chunk::normalise(const float *weight, const std::string &input_stage, const std::string &norm_stage) {
    NumericCheck input, output;
    for_rows(decoder_.pool(), call_.stop, rows(), config_.hidden_size, [&](size_t index) {
        const size_t row = first_ + index;
        const float sum = kernels_.square_sum(hidden(row), config_.hidden_size);
        input.note(std::isfinite(sum));
        const double mean = static_cast<double>(sum) / static_cast<double>(config_.hidden_size);
        const auto factor = static_cast<float>(1.0 / std::sqrt(mean + config_.rms_norm_eps));
        output.note(kernels_.scale(hidden(row), factor, weight, normed(row), config_.hidden_size));
    });
    input.require(input_stage);
    output.require(norm_stage);
}

void Chunk::project_qkv(size_t layer) {
    const DecoderLayer &weights = decoder_.layers()[layer];
    normalise(weights.input_norm, layer == 0 ? "the input embeddings" : in_layer("MLP", layer - 1),
              in_layer("input norm", layer));
    decoder_.linear().apply(weights.qkv, normed(0), call_.count, config_.hidden_size, qkv(0), config_.qkv_size(),
                            scratch_.linear);
    store_rows(layer);
}

// Rotates queries and keys and puts keys and values into the cache.
void Chunk::store_rows(size_t layer) {
    const size_t head_size = config_.head_size, half = head_size / 2, cached = layer - call_.first_layer;
    const KvPrecision precision = cache_.precision();
    NumericCheck check;
    for_rows(decoder_.pool(), call_.stop, call_.count, 2 * config_.qkv_size(), [&](size_t row) {
        check.note(kernels_.is_finite(qkv(row), config_.qkv_size()));
        kernels_.rotate(qkv(row), config_.heads + config_.kv_heads, head_size, scratch_.cosine.data() + row * half,
                        scratch_.sine.data() + row * half);
        // A few channels of Qwen's keys are far larger than the rest and would leave it no steps.
        if (precision == KvPrecision::int8)
            kernels_.spread(qkv(row), config_.heads + config_.kv_heads, head_size);
        const float *keys = qkv(row) + config_.query_size(); // (kv_heads, head_size), values behind
        const float *values = keys + config_.kv_size();
        for (size_t head = 0; head < config_.kv_heads; ++head) {
            const size_t position = call_.position + row;
            kernels_.store_key(keys + head * head_size, head_size, precision, cache_.key(cached, head, position),
                               cache_.key_step(cached, head, position));
            kernels_.store_value(values + head * head_size, head_size, precision, cache_.value(cached, head, position),
                                 cache_.value_step(cached, head, position));
        }
    });
    check.require(in_layer("query, key and value projection", layer));
}

void Chunk::attend(size_t layer) {
    attend_heads(layer);
    decoder_.linear().apply(decoder_.layers()[layer].output, scratch_.attended.data() + first_ * config_.query_size(),
                            rows(), config_.query_size(), hidden(first_), config_.hidden_size, scratch_.linear,
                            Placing::add);
}

// Splits the rows into tasks; where these are too few for the threads, their keys as well.
void Chunk::attend_heads(size_t layer) {
    const AttentionPlan plan = plan_attention(config_, rows(), decoder_.pool().threads());
    const size_t products = rows() * (call_.position + call_.count) * config_.query_size();
    NumericCheck check;
    if (plan.splits_keys && call_.position + call_.count > KEY_SEGMENT && products >= PARALLEL_PRODUCTS)
        attend_segments(layer, plan, check);
    else
        attend_tasks(layer, plan, products < PARALLEL_PRODUCTS ? 1 : decoder_.pool().threads(), check);
    check.require(in_layer("attention", layer));
}

AttentionTask Chunk::attention_task(size_t layer, const AttentionPlan &plan, size_t index) {
    const size_t group = config_.heads / config_.kv_heads;
    const size_t block = plan.blocks - 1 - index / (config_.kv_heads * plan.parts); // the longest tasks first
    const size_t kv_head = index / plan.parts % config_.kv_heads, part = index % plan.parts;
    const size_t row = first_ + block * plan.positions;
    const size_t head = kv_head * group + part * plan.heads;
    AttentionTask task{};
    task.cache = cache_.view(layer - call_.first_layer, kv_head);
    task.queries = qkv(row) + head * config_.head_size;
    task.query_stride = config_.qkv_size();
    task.output = scratch_.attended.data() + row * config_.query_size() + head * config_.head_size;
    task.output_stride = config_.query_size();
    task.first_position = call_.position + row;
    task.positions = std::min(plan.positions, call_.count - row);
    task.heads = std::min(plan.heads, group - part * plan.heads);
    task.head_size = config_.head_size;
    task.score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_size)));
    task.stop = call_.stop;
    return task;
}

// Runs body(index, scratch) for every index, the scratch being the thread's own.
template <class Body>
void Chunk::for_attention(size_t threads, size_t count, Body &&body) {
    const size_t floats = attention_scratch_floats(config_.head_size);
    decoder_.pool().run_workers(threads, count, call_.stop, [&](size_t worker, size_t index) {
        body(index, scratch_.attention.data() + worker * floats);
    });
}

void Chunk::attend_tasks(size_t layer, const AttentionPlan &plan, size_t threads, NumericCheck &check) {
    for_attention(threads, plan.tasks(config_), [&](size_t index, float *scratch) {
        check.note(decoder_.attention().attend(attention_task(layer, plan, index), scratch));
    });
}

void Chunk::attend_segments(size_t layer, const AttentionPlan &plan, NumericCheck &check) {
    const size_t tasks = plan.tasks(config_), threads = decoder_.pool().threads();
    const size_t segments = attention_segments(attention_task(layer, plan, 0)); // one block holds all positions
    const auto partials = [&](size_t index) {
        return scratch_.partials.data() + index * segments * plan.partial_floats(config_);
    };
    for_attention(threads, tasks * segments, [&](size_t index, float *scratch) {
        const AttentionTask task = attention_task(layer, plan, index / segments);
        const size_t floats = attention_partial_floats(task.positions * task.heads, task.head_size);
        decoder_.attention().attend_segment(task, index % segments,
                                            partials(index / segments) + index % segments * floats, scratch);
    });
    for_attention(threads, tasks, [&](size_t index, float *) {
        check.note(decoder_.attention().join(attention_task(layer, plan, index), partials(index)));
    });
}

void Chunk::run_mlp(size_t layer) {
    const DecoderLayer &weights = decoder_.layers()[layer];
    normalise(weights.post_attention_norm, in_layer("attention output", layer), in_layer("post-attention norm", layer));
    NumericCheck check;
    check.note(decoder_.linear().feed_forward(weights.gate_up, weights.down, normed(first_), rows(), hidden(first_),
                                              scratch_.linear));
    check.require(in_layer("MLP activation", layer));
}

void Chunk::compute_logits() {
    normalise(decoder_.norm(), in_layer("MLP", config_.layers - 1), "the final norm");
    decoder_.linear().apply(decoder_.head(), normed(first_), rows(), config_.hidden_size, call_.logits,
                            config_.vocabulary_size, scratch_.linear);
    NumericCheck check;
    for_rows(decoder_.pool(), call_.stop, rows(), config_.vocabulary_size, [&](size_t index) {
        check.note(kernels_.is_finite(call_.logits + index * config_.vocabulary_size, config_.vocabulary_size));
    });
    check.require("the logits");
}

} // namespace

size_t split_attention_floats(const DecoderConfig &config, size_t rows, size_t positions, size_t threads) {
    const size_t segments = (positions + KEY_SEGMENT - 1) / KEY_SEGMENT;
    size_t most = 0;
    for (size_t count = 1; count <= rows; ++count) {
        const AttentionPlan plan = plan_attention(config, count, threads);
        if (plan.blocks > 1)
            break; // and so have all longer ones
        if (plan.splits_keys)
            most = std::max(most, plan.tasks(config) * segments * plan.partial_floats(config));
    }
    return most;
}

void ForwardScratch::reserve(const Decoder &decoder, size_t row_count) {
    if (row_count <= rows)
        return;
    const DecoderConfig &config = decoder.config();
    rows = 0; // until all buffers are there: a buffer that could not grow is empty
    hidden.reserve(row_count * config.hidden_size);
    normed.reserve(row_count * config.hidden_size);
    qkv.reserve(row_count * config.qkv_size());
    attended.reserve(row_count * config.query_size());
    cosine.reserve(row_count * config.head_size / 2);
    sine.reserve(row_count * config.head_size / 2);
    attention.reserve(decoder.pool().threads() * attention_scratch_floats(config.head_size));
    partials.reserve(split_attention_floats(config, row_count, config.max_context, decoder.pool().threads()));
    rows = row_count;
}

void forward(const Decoder &decoder, KvCache &cache, ForwardScratch &scratch, const ForwardCall &call) {
    Chunk(decoder, cache, scratch, call).run();
}

} // namespace v2e
