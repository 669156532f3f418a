// The attention kernel, once for every instruction set: include a simd_*.hpp header first. Online softmax over blocks
// of keys after Milakov and Gimelshein (2018), "Online normalizer calculation for softmax", section 3; blocked as in
// Dao et al. (2022), "FlashAttention", algorithm 1.

#include "cpu/attention/attention.hpp"

#include <limits>

namespace v2e::V2E_SIMD {

namespace {

constexpr size_t KEYS = 64; // keys of one block
constexpr int LANES = 16;
constexpr int KEY_VECTORS = static_cast<int>(KEYS) / LANES;
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

// What the rows of a task have summed up over some keys.
struct Sums {
    float *values;  // (rows, head_size): of weight * value, not normalised
    float *maximum; // (rows,): largest score
    float *total;   // (rows,): sum of weights
};

Sums cut_sums(float *memory, size_t rows, size_t head_size) {
    const size_t padded = (rows + LANES - 1) / LANES * LANES;
    float *maximum = memory + rows * head_size;
    return {memory, maximum, maximum + padded};
}

// The scratch of one task, cut into its arrays.
struct Workspace {
    float *queries;    // (rows, head_size)
    float *keys;       // (4, head_size, 16): a block in fp32
    float *values;     // (64, head_size)
    float *weights;    // (REGISTER_ROWS, 64): scores, then their exponentials
    float *correction; // (16,): what the old sums of a row are multiplied with
    Sums segment;
    Sums whole;
};

Workspace cut(float *scratch, size_t rows, size_t head_size) {
    Workspace work;
    work.queries = scratch;
    work.keys = work.queries + MAX_ATTENTION_ROWS * head_size;
    work.values = work.keys + KEYS * head_size;
    work.weights = work.values + KEYS * head_size;
    work.correction = work.weights + LANES * KEYS;
    float *sums = work.correction + LANES;
    work.segment = cut_sums(sums, rows, head_size);
    const size_t padded = (MAX_ATTENTION_ROWS + LANES - 1) / LANES * LANES;
    work.whole = cut_sums(sums + MAX_ATTENTION_ROWS * head_size + 2 * padded, rows, head_size);
    return work;
}

// 64 keys, (4, head_size, 16), and their values, (64, head_size); the steps, (64,), are null without int8.
template <class Element>
struct Block {
    const Element *keys;
    const Element *values;
    const float *key_steps;
    const float *value_steps;
};

// sum (Rows, Vectors * 16) += a (Rows, depth) * b (depth, Vectors * 16), one chain of additions for each sum.
template <int Rows, int Vectors, class Element>
inline void multiply(const float *a, size_t a_stride, const Element *b, size_t b_stride, size_t b_vector_stride,
                     size_t depth, Vec (&sum)[Rows][Vectors]) {
    for (size_t k = 0; k < depth; ++k) {
        Vec column[Vectors];
        V2E_UNROLL
        for (int v = 0; v < Vectors; ++v)
            column[v] = load(b + k * b_stride + static_cast<size_t>(v) * b_vector_stride);
        V2E_UNROLL
        for (int r = 0; r < Rows; ++r) {
            const Vec factor = splat(a[static_cast<size_t>(r) * a_stride + k]);
            V2E_UNROLL
            for (int v = 0; v < Vectors; ++v)
                sum[r][v] = fma(factor, column[v], sum[r][v]);
        }
    }
}

// weights (Rows, 64) = scale * steps * queries (Rows, head_size) * keys
template <int Rows, class Element>
inline void score(const float *queries, const Block<Element> &block, size_t head_size, float scale, float *weights) {
    for (int first = 0; first < KEY_VECTORS; first += REGISTER_VECTORS) {
        Vec sum[Rows][REGISTER_VECTORS];
        V2E_UNROLL
        for (int r = 0; r < Rows; ++r)
            V2E_UNROLL
        for (int v = 0; v < REGISTER_VECTORS; ++v)
            sum[r][v] = splat(0.0f);
        const size_t stride = head_size * LANES;
        multiply<Rows, REGISTER_VECTORS>(queries, head_size, block.keys + static_cast<size_t>(first) * stride, LANES,
                                         stride, head_size, sum);
        Vec factor[REGISTER_VECTORS];
        V2E_UNROLL
        for (int v = 0; v < REGISTER_VECTORS; ++v) {
            factor[v] = splat(scale);
            if (block.key_steps != nullptr)
                factor[v] = factor[v] * load(block.key_steps + (first + v) * LANES);
        }
        V2E_UNROLL
        for (int r = 0; r < Rows; ++r)
            V2E_UNROLL
        for (int v = 0; v < REGISTER_VECTORS; ++v)
            store(weights + r * KEY_VECTORS * LANES + (first + v) * LANES, sum[r][v] * factor[v]);
    }
}

// Turns one row's scores into weights relative to its running maximum, times the values' steps if there are any.
// `visible` keys of the block count.
inline void soften(float *weights, const float *steps, int visible, float &maximum, float &total, float &correction) {
    if (visible == 0) { // the row may not have seen any key of the segment
        for (int v = 0; v < KEY_VECTORS; ++v)
            store(weights + v * LANES, splat(0.0f));
        correction = 1.0f;
        return;
    }
    Vec scores[KEY_VECTORS];
    for (int v = 0; v < KEY_VECTORS; ++v) {
        const int left = visible - v * LANES;
        scores[v] = load(weights + v * LANES);
        if (left < LANES)
            scores[v] = first_lanes(scores[v], left < 0 ? 0 : left, MINUS_INFINITY);
    }
    const float block = largest_of(at_least(at_least(scores[0], scores[1]), at_least(scores[2], scores[3])));
    const float risen = block > maximum ? block : maximum;
    Vec sum = splat(0.0f);
    for (int v = 0; v < KEY_VECTORS; ++v) {
        const Vec weight = exponential(scores[v] - splat(risen));
        sum = sum + weight;
        store(weights + v * LANES, steps == nullptr ? weight : weight * load(steps + v * LANES));
    }
    float factors[LANES];
    store(factors, exponential(splat(maximum - risen)));
    correction = factors[0];
    total = total * correction + sum_of(sum);
    maximum = risen;
}

// sums (Rows, Vectors * 16) = sums * correction + weights (Rows, depth) * values (depth, Vectors * 16)
template <int Rows, int Vectors, class Element>
inline void accumulate_columns(const float *weights, const Element *values, size_t head_size, size_t depth,
                               const float *correction, float *sums) {
    Vec sum[Rows][Vectors];
    V2E_UNROLL
    for (int r = 0; r < Rows; ++r)
        V2E_UNROLL
    for (int v = 0; v < Vectors; ++v)
        sum[r][v] = load(sums + static_cast<size_t>(r) * head_size + v * LANES) * splat(correction[r]);
    multiply<Rows, Vectors>(weights, KEYS, values, head_size, LANES, depth, sum);
    V2E_UNROLL
    for (int r = 0; r < Rows; ++r)
        V2E_UNROLL
    for (int v = 0; v < Vectors; ++v)
        store(sums + static_cast<size_t>(r) * head_size + v * LANES, sum[r][v]);
}

template <int Rows, class Element>
inline void accumulate(const float *weights, const Element *values, size_t head_size, size_t depth,
                       const float *correction, float *sums) {
    size_t column = 0;
    for (; column + REGISTER_VECTORS * LANES <= head_size; column += REGISTER_VECTORS * LANES)
        accumulate_columns<Rows, REGISTER_VECTORS>(weights, values + column, head_size, depth, correction,
                                                   sums + column);
    for (; column < head_size; column += LANES)
        accumulate_columns<Rows, 1>(weights, values + column, head_size, depth, correction, sums + column);
}

// Attends over one block of keys for `Rows` rows from `row` on.
template <int Rows, class Element>
inline void advance(const AttentionTask &task, const Workspace &work, const Sums &sums, size_t row, size_t key,
                    const Block<Element> &block) {
    const size_t head_size = task.head_size;
    score<Rows>(work.queries + row * head_size, block, head_size, task.score_scale, work.weights);
    size_t depth = 0;
    for (size_t r = 0; r < Rows; ++r) {
        const size_t limit = task.first_position + (row + r) / task.heads + 1;
        const size_t visible = limit <= key ? 0 : limit - key < KEYS ? limit - key : KEYS;
        depth = visible > depth ? visible : depth;
        soften(work.weights + r * KEYS, block.value_steps, static_cast<int>(visible), sums.maximum[row + r],
               sums.total[row + r], work.correction[r]);
    }
    // Behind `depth` the cache may hold anything, NaNs of a failed call too.
    accumulate<Rows>(work.weights, block.values, head_size, depth, work.correction, sums.values + row * head_size);
}

template <class Element>
inline void advance_rows(const AttentionTask &task, const Workspace &work, const Sums &sums, size_t row, size_t rows,
                         size_t key, const Block<Element> &block) {
    switch (rows) {
    case 1:
        return advance<1>(task, work, sums, row, key, block);
    case 2:
        return advance<2>(task, work, sums, row, key, block);
#if V2E_REGISTER_ROWS > 2
    case 3:
        return advance<3>(task, work, sums, row, key, block);
    case 4:
        return advance<4>(task, work, sums, row, key, block);
    case 5:
        return advance<5>(task, work, sums, row, key, block);
    case 6:
        return advance<6>(task, work, sums, row, key, block);
#endif
#if V2E_REGISTER_ROWS > 6
    case 7:
        return advance<7>(task, work, sums, row, key, block);
#endif
    default:
        return;
    }
}

// Attends over one block of keys for all rows of the task.
template <class Element>
void advance_all(const AttentionTask &task, const Workspace &work, const Sums &sums, size_t key,
                 const Block<Element> &block) {
    constexpr size_t MOST = REGISTER_ROWS;
    const size_t rows = task.positions * task.heads;
    const size_t parts = (rows + MOST - 1) / MOST;
    for (size_t part = 0; part < parts; ++part) {
        const size_t row = rows * part / parts;
        const size_t count = rows * (part + 1) / parts - row;
        const size_t last_position = task.first_position + (row + count - 1) / task.heads;
        if (last_position >= key)
            advance_rows(task, work, sums, row, count, key, block);
    }
}

template <class Element>
Block<Element> find_block(const KvView &cache, size_t key, size_t head_size) {
    const std::byte *page = cache.pages[key / KV_PAGE];
    const size_t slot = key % KV_PAGE;
    Block<Element> block;
    block.keys = reinterpret_cast<const Element *>(page + cache.key_offset) + slot * head_size;
    block.values = reinterpret_cast<const Element *>(page + cache.value_offset) + slot * head_size;
    const bool stepped = cache.precision == KvPrecision::int8;
    block.key_steps = stepped ? reinterpret_cast<const float *>(page + cache.key_step_offset) + slot : nullptr;
    block.value_steps = stepped ? reinterpret_cast<const float *>(page + cache.value_step_offset) + slot : nullptr;
    return block;
}

template <class Element>
void attend_keys(const AttentionTask &task, const Workspace &work, const Sums &sums, size_t begin, size_t end) {
    const bool widened = sizeof(Element) < sizeof(float) && task.positions * task.heads > DIRECT_ROWS;
    for (size_t key = begin; key < end; key += KEYS) {
        const Block<Element> block = find_block<Element>(task.cache, key, task.head_size);
        if (!widened) {
            advance_all(task, work, sums, key, block);
            continue;
        }
        // The steps are left out, as they are for few rows: the bits must be the same.
        widen(block.keys, KEYS * task.head_size, work.keys);
        widen(block.values, KEYS * task.head_size, work.values);
        advance_all(task, work, sums, key, Block<float>{work.keys, work.values, block.key_steps, block.value_steps});
    }
}

void pack_queries(const AttentionTask &task, const Workspace &work) {
    const size_t width = task.heads * task.head_size;
    for (size_t position = 0; position < task.positions; ++position)
        widen(task.queries + position * task.query_stride, width, work.queries + position * width);
}

// The sums over the keys of one segment.
void sum_segment(const AttentionTask &task, const Workspace &work, size_t segment, const Sums &sums) {
    if (stops(task.stop))
        return;
    const size_t rows = task.positions * task.heads;
    for (size_t i = 0; i < rows * task.head_size; i += LANES)
        store(sums.values + i, splat(0.0f));
    for (size_t row = 0; row < rows; ++row) {
        sums.maximum[row] = MINUS_INFINITY;
        sums.total[row] = 0.0f;
    }
    const size_t begin = segment * KEY_SEGMENT, all = task.first_position + task.positions;
    const size_t end = all - begin < KEY_SEGMENT ? all : begin + KEY_SEGMENT;
    if (task.cache.precision == KvPrecision::int8)
        attend_keys<int8_t>(task, work, sums, begin, end);
    else if (task.cache.precision == KvPrecision::fp16)
        attend_keys<uint16_t>(task, work, sums, begin, end);
    else
        attend_keys<float>(task, work, sums, begin, end);
}

// whole += the sums of a segment but the first, each relative to its own maximum.
void join_segment(const AttentionTask &task, size_t segment, const Sums &sums, const Sums &whole) {
    const size_t head_size = task.head_size;
    for (size_t row = 0; row < task.positions * task.heads; ++row) {
        if (task.first_position + row / task.heads < segment * KEY_SEGMENT)
            continue; // the row sees none of its keys
        const float old_maximum = whole.maximum[row], new_maximum = sums.maximum[row];
        const float risen = new_maximum > old_maximum ? new_maximum : old_maximum;
        const Vec keep = exponential(splat(old_maximum - risen)), take = exponential(splat(new_maximum - risen));
        float *target = whole.values + row * head_size;
        const float *source = sums.values + row * head_size;
        for (size_t channel = 0; channel < head_size; channel += LANES)
            store(target + channel, fma(load(source + channel), take, load(target + channel) * keep));
        float totals[LANES];
        store(totals, fma(splat(sums.total[row]), take, splat(whole.total[row]) * keep));
        whole.total[row] = totals[0];
        whole.maximum[row] = risen;
    }
}

bool finish(const AttentionTask &task, const Sums &sums) {
    Vec check = splat(0.0f); // NaN as soon as an output is not finite
    for (size_t row = 0; row < task.positions * task.heads; ++row) {
        const Vec total = splat(sums.total[row]);
        float *output = task.output + row / task.heads * task.output_stride + row % task.heads * task.head_size;
        for (size_t channel = 0; channel < task.head_size; channel += LANES) {
            const Vec value = load(sums.values + row * task.head_size + channel) / total;
            store(output + channel, value);
            check = fma(value, splat(0.0f), check);
        }
    }
    return sum_of(check) == 0.0f;
}

bool attend(const AttentionTask &task, float *scratch) {
    const Workspace work = cut(scratch, task.positions * task.heads, task.head_size);
    pack_queries(task, work);
    sum_segment(task, work, 0, work.whole);
    const size_t keys = task.first_position + task.positions;
    for (size_t segment = 1; segment * KEY_SEGMENT < keys; ++segment) {
        sum_segment(task, work, segment, work.segment);
        join_segment(task, segment, work.segment, work.whole);
    }
    return finish(task, work.whole);
}

void attend_segment(const AttentionTask &task, size_t segment, float *partial, float *scratch) {
    const size_t rows = task.positions * task.heads;
    const Workspace work = cut(scratch, rows, task.head_size);
    pack_queries(task, work);
    sum_segment(task, work, segment, cut_sums(partial, rows, task.head_size));
}

bool join(const AttentionTask &task, float *partials) {
    const size_t rows = task.positions * task.heads, keys = task.first_position + task.positions;
    const size_t stride = rows * task.head_size + 2 * ((rows + LANES - 1) / LANES * LANES);
    const Sums whole = cut_sums(partials, rows, task.head_size);
    for (size_t segment = 1; segment * KEY_SEGMENT < keys; ++segment)
        join_segment(task, segment, cut_sums(partials + segment * stride, rows, task.head_size), whole);
    return finish(task, whole);
}

} // namespace

constinit const AttentionKernels attention = {attend, attend_segment, join};

} // namespace v2e::V2E_SIMD
