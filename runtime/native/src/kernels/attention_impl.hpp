// The attention kernel, once for every instruction set: include a simd_*.hpp header first. Online softmax over blocks
// of keys after Milakov and Gimelshein (2018), "Online normalizer calculation for softmax", section 3; blocked as in
// Dao et al. (2022), "FlashAttention", algorithm 1.

#include "kernels/attention.hpp"

#include <limits>

namespace v2e::V2E_SIMD {

namespace {

constexpr size_t KEYS = 64; // of one block
constexpr int LANES = 16;
constexpr int KEY_VECTORS = static_cast<int>(KEYS) / LANES;
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

// The scratch of one task, cut into its arrays.
struct Workspace {
    float *queries;    // (rows, head_size)
    float *sums;       // (rows, head_size): of weight * value, not normalised
    float *keys;       // (4, head_size, 16): a block in fp32
    float *values;     // (64, head_size)
    float *weights;    // (REGISTER_ROWS, 64): scores, then their exponentials
    float *maximum;    // (rows,)
    float *total;      // (rows,): sum of weights
    float *correction; // (16,): what the old sums of a row are multiplied with
};

Workspace cut(float *scratch, size_t head_size) {
    Workspace work;
    work.queries = scratch;
    work.sums = work.queries + MAX_ATTENTION_ROWS * head_size;
    work.keys = work.sums + MAX_ATTENTION_ROWS * head_size;
    work.values = work.keys + KEYS * head_size;
    work.weights = work.values + KEYS * head_size;
    work.maximum = work.weights + LANES * KEYS;
    work.total = work.maximum + MAX_ATTENTION_ROWS;
    work.correction = work.total + MAX_ATTENTION_ROWS;
    return work;
}

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

// weights (Rows, 64) = scale * queries (Rows, head_size) * keys
template <int Rows, class Element>
inline void score(const float *queries, const Element *keys, size_t head_size, float scale, float *weights) {
    const Vec factor = splat(scale);
    for (int first = 0; first < KEY_VECTORS; first += REGISTER_VECTORS) {
        Vec sum[Rows][REGISTER_VECTORS];
        V2E_UNROLL
        for (int r = 0; r < Rows; ++r)
            V2E_UNROLL
        for (int v = 0; v < REGISTER_VECTORS; ++v)
            sum[r][v] = splat(0.0f);
        const size_t block = head_size * LANES;
        multiply<Rows, REGISTER_VECTORS>(queries, head_size, keys + static_cast<size_t>(first) * block, LANES, block,
                                         head_size, sum);
        V2E_UNROLL
        for (int r = 0; r < Rows; ++r)
            V2E_UNROLL
        for (int v = 0; v < REGISTER_VECTORS; ++v)
            store(weights + r * KEY_VECTORS * LANES + (first + v) * LANES, sum[r][v] * factor);
    }
}

// Turns one row's scores into weights relative to its running maximum. `visible` keys of the block count.
inline void soften(float *weights, int visible, float &maximum, float &total, float &correction) {
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
        store(weights + v * LANES, weight);
        sum = sum + weight;
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

// One block of keys for `Rows` rows from `row` on.
template <int Rows, class Element>
inline void advance(const AttentionTask &task, const Workspace &work, size_t row, size_t key, const Element *keys,
                    const Element *values) {
    const size_t head_size = task.head_size;
    score<Rows>(work.queries + row * head_size, keys, head_size, task.score_scale, work.weights);
    size_t depth = 0;
    for (size_t r = 0; r < Rows; ++r) {
        const size_t limit = task.first_position + (row + r) / task.heads + 1;
        const size_t visible = limit <= key ? 0 : limit - key < KEYS ? limit - key : KEYS;
        depth = visible > depth ? visible : depth;
        soften(work.weights + r * KEYS, static_cast<int>(visible), work.maximum[row + r], work.total[row + r],
               work.correction[r]);
    }
    // Behind `depth` the cache may hold anything, NaNs of a failed call too.
    accumulate<Rows>(work.weights, values, head_size, depth, work.correction, work.sums + row * head_size);
}

template <class Element>
inline void advance_rows(const AttentionTask &task, const Workspace &work, size_t row, size_t rows, size_t key,
                         const Element *keys, const Element *values) {
    switch (rows) {
    case 1:
        return advance<1>(task, work, row, key, keys, values);
    case 2:
        return advance<2>(task, work, row, key, keys, values);
#if V2E_REGISTER_ROWS > 2
    case 3:
        return advance<3>(task, work, row, key, keys, values);
    case 4:
        return advance<4>(task, work, row, key, keys, values);
    case 5:
        return advance<5>(task, work, row, key, keys, values);
    case 6:
        return advance<6>(task, work, row, key, keys, values);
#endif
#if V2E_REGISTER_ROWS > 6
    case 7:
        return advance<7>(task, work, row, key, keys, values);
#endif
    default:
        return;
    }
}

// One block of keys for all rows of the task.
template <class Element>
void advance_all(const AttentionTask &task, const Workspace &work, size_t key, const Element *keys,
                 const Element *values) {
    constexpr size_t MOST = REGISTER_ROWS;
    const size_t rows = task.positions * task.heads;
    const size_t parts = (rows + MOST - 1) / MOST;
    for (size_t part = 0; part < parts; ++part) {
        const size_t row = rows * part / parts;
        const size_t count = rows * (part + 1) / parts - row;
        const size_t last_position = task.first_position + (row + count - 1) / task.heads;
        if (last_position >= key)
            advance_rows(task, work, row, count, key, keys, values);
    }
}

template <class Element>
void widen(const Element *source, size_t count, float *target) {
    for (size_t i = 0; i < count; i += LANES)
        store(target + i, load(source + i));
}

template <class Element>
void attend_all_keys(const AttentionTask &task, const Workspace &work) {
    const size_t end = task.first_position + task.positions;
    const size_t block = KEYS * task.head_size;
    // Converting a block once pays when its rows are read in several parts.
    const bool widened = sizeof(Element) == 2 && task.positions * task.heads > 2 * REGISTER_ROWS;
    for (size_t key = 0; key < end; key += KEYS) {
        const std::byte *page = task.cache.pages[key / KV_PAGE];
        const size_t offset = key % KV_PAGE * task.head_size;
        const auto *keys = reinterpret_cast<const Element *>(page + task.cache.key_offset) + offset;
        const auto *values = reinterpret_cast<const Element *>(page + task.cache.value_offset) + offset;
        if (widened) {
            widen(keys, block, work.keys);
            widen(values, block, work.values);
            advance_all(task, work, key, work.keys, work.values);
        } else {
            advance_all(task, work, key, keys, values);
        }
    }
}

void begin(const AttentionTask &task, const Workspace &work) {
    const size_t width = task.heads * task.head_size;
    for (size_t position = 0; position < task.positions; ++position)
        widen(task.queries + position * task.query_stride, width, work.queries + position * width);
    for (size_t i = 0; i < task.positions * width; i += LANES)
        store(work.sums + i, splat(0.0f));
    for (size_t row = 0; row < task.positions * task.heads; ++row) {
        work.maximum[row] = MINUS_INFINITY;
        work.total[row] = 0.0f;
    }
}

bool finish(const AttentionTask &task, const Workspace &work) {
    Vec check = splat(0.0f); // NaN as soon as an output is not finite
    for (size_t row = 0; row < task.positions * task.heads; ++row) {
        const Vec total = splat(work.total[row]);
        float *output = task.output + row / task.heads * task.output_stride + row % task.heads * task.head_size;
        for (size_t channel = 0; channel < task.head_size; channel += LANES) {
            const Vec value = load(work.sums + row * task.head_size + channel) / total;
            store(output + channel, value);
            check = fma(value, splat(0.0f), check);
        }
    }
    return sum_of(check) == 0.0f;
}

} // namespace

bool attend(const AttentionTask &task, float *scratch) {
    const Workspace work = cut(scratch, task.head_size);
    begin(task, work);
    if (task.cache.half)
        attend_all_keys<uint16_t>(task, work);
    else
        attend_all_keys<float>(task, work);
    return finish(task, work);
}

} // namespace v2e::V2E_SIMD
