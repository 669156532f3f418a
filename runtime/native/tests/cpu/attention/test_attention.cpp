// Attention over the KV cache against double arithmetic, at every instruction set that the machine has.
#include "cpu/attention/attention.hpp"
#include "cpu/elementwise/elementwise.hpp"
#include "decoder/kv_cache.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"
#include "tests/kv_elements.hpp"
#include "tests/random_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace v2e;

namespace {

template <class Body>
void for_each_kind(Body &&body) {
    for_each_isa([&](v2e_isa isa) {
        for (const KvPrecision precision : ALL_PRECISIONS)
            body(isa, precision);
    });
}

// One kv head with its group of query heads.
struct Shape {
    size_t group;
    size_t head_size;
};

// A cache of one layer and one kv head, filled with rows (length, head_size).
KvCache filled_cache(v2e_isa isa, KvPrecision precision, size_t head_size, const std::vector<float> &keys,
                     const std::vector<float> &values) {
    const ElementwiseKernels &kernels = elementwise_kernels(isa);
    KvCache cache(1, 1, head_size, precision);
    const size_t length = keys.size() / head_size;
    cache.reserve(length);
    for (size_t i = 0; i < length; ++i) {
        kernels.store_key(keys.data() + i * head_size, head_size, precision, cache.key(0, 0, i),
                          cache.key_step(0, 0, i));
        kernels.store_value(values.data() + i * head_size, head_size, precision, cache.value(0, 0, i),
                            cache.value_step(0, 0, i));
    }
    return cache;
}

// What the cache holds, (length, head_size) keys and values in float.
void read_back(KvCache &cache, size_t head_size, std::vector<float> &keys, std::vector<float> &values) {
    const KvPrecision precision = cache.precision();
    for (size_t i = 0; i < keys.size(); ++i) {
        const size_t position = i / head_size, channel = i % head_size;
        keys[i] = static_cast<float>(
            element(cache.key(0, 0, position), channel * KEY_LANES, precision, cache.key_step(0, 0, position)));
        values[i] = static_cast<float>(
            element(cache.value(0, 0, position), channel, precision, cache.value_step(0, 0, position)));
    }
}

// Outputs (positions, group, head_size) of queries of that shape, the first at `first`, in double.
std::vector<double> reference(const std::vector<float> &queries, const std::vector<float> &keys,
                              const std::vector<float> &values, size_t first, const Shape &shape) {
    const size_t size = shape.head_size;
    std::vector<double> output(queries.size(), 0.0), weights;
    for (size_t row = 0; row < queries.size() / size; ++row) {
        const size_t count = first + row / shape.group + 1;
        weights.assign(count, 0.0);
        for (size_t key = 0; key < count; ++key) {
            for (size_t i = 0; i < size; ++i)
                weights[key] += static_cast<double>(queries[row * size + i]) * keys[key * size + i];
            weights[key] /= std::sqrt(static_cast<double>(size));
        }
        const double largest = *std::max_element(weights.begin(), weights.end());
        double total = 0;
        for (double &weight : weights)
            total += weight = std::exp(weight - largest);
        for (size_t key = 0; key < count; ++key)
            for (size_t i = 0; i < size; ++i)
                output[row * size + i] += weights[key] / total * values[key * size + i];
    }
    return output;
}

// Queries (positions, group, head_size) of a task over the cache, and room for its output.
struct Question {
    Question(const KvCache &cache, const std::vector<float> &rows, size_t first, const Shape &shape)
        : queries(rows), output(rows.size(), std::nanf("")), scratch(attention_scratch_floats(shape.head_size)) {
        task.cache = cache.view(0, 0);
        task.queries = queries.data();
        task.query_stride = task.output_stride = shape.group * shape.head_size;
        task.output = output.data();
        task.first_position = first;
        task.positions = rows.size() / task.query_stride;
        task.heads = shape.group;
        task.head_size = shape.head_size;
        task.score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
    }

    std::vector<float> queries, output;
    AlignedBuffer<float> scratch;
    AttentionTask task{};
};

std::vector<float> attend(v2e_isa isa, const KvCache &cache, const std::vector<float> &queries, size_t first,
                          const Shape &shape) {
    Question question(cache, queries, first, shape);
    CHECK(attention_kernels(isa).attend(question.task, question.scratch.data()));
    return question.output;
}

double largest_difference(const std::vector<float> &actual, const std::vector<double> &expected) {
    double most = 0;
    for (size_t i = 0; i < actual.size(); ++i)
        most = std::max(most, std::isnan(actual[i]) ? HUGE_VAL : std::abs(actual[i] - expected[i]));
    return most;
}

double relative_error(const std::vector<double> &actual, const std::vector<double> &expected) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
        difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void spread(v2e_isa isa, std::vector<float> &heads, size_t head_size) {
    elementwise_kernels(isa).spread(heads.data(), heads.size() / head_size, head_size);
}

} // namespace

TEST_CASE("attention equals double arithmetic") {
    const Shape shapes[] = {{1, 16}, {3, 48}, {7, 128}, {14, 80}, {64, 16}};
    const size_t firsts[] = {0, 62, 511, 1100};
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        for (const Shape &shape : shapes)
            for (const size_t first : firsts)
                for (const size_t positions : {size_t{1}, MAX_ATTENTION_ROWS / shape.group}) {
                    const size_t length = first + positions;
                    std::vector<float> keys = random_rows(length, shape.head_size, 1);
                    std::vector<float> values = random_rows(length, shape.head_size, 2);
                    const std::vector<float> queries = random_rows(positions * shape.group, shape.head_size, 3);
                    KvCache cache = filled_cache(isa, precision, shape.head_size, keys, values);
                    const std::vector<float> output = attend(isa, cache, queries, first, shape);
                    read_back(cache, shape.head_size, keys, values);
                    CHECK(largest_difference(output, reference(queries, keys, values, first, shape)) < 2e-6);
                }
    });
}

TEST_CASE("attention over 32768 keys equals double arithmetic") {
    const Shape shape{7, 32};
    const size_t length = 32768, first = length - 2;
    const std::vector<float> queries = random_rows(2 * shape.group, shape.head_size, 3);
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        std::vector<float> keys = random_rows(length, shape.head_size, 1);
        std::vector<float> values = random_rows(length, shape.head_size, 2);
        KvCache cache = filled_cache(isa, precision, shape.head_size, keys, values);
        const std::vector<float> output = attend(isa, cache, queries, first, shape);
        read_back(cache, shape.head_size, keys, values);
        CHECK(largest_difference(output, reference(queries, keys, values, first, shape)) < 2e-6);
    });
}

TEST_CASE("attention by segments has the same bits") {
    const Shape shape{7, 64};
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        const AttentionKernels &kernels = attention_kernels(isa);
        for (const size_t first : {size_t{3}, KEY_SEGMENT - 2, 3 * KEY_SEGMENT - 1, 3 * KEY_SEGMENT + 77}) {
            const size_t positions = 5, length = first + positions;
            const KvCache cache = filled_cache(isa, precision, shape.head_size, random_rows(length, shape.head_size, 1),
                                               random_rows(length, shape.head_size, 2));
            const std::vector<float> queries = random_rows(positions * shape.group, shape.head_size, 3);
            const std::vector<float> whole = attend(isa, cache, queries, first, shape);
            Question split(cache, queries, first, shape);
            const size_t floats = attention_partial_floats(positions * shape.group, shape.head_size);
            const size_t segments = attention_segments(split.task);
            AlignedBuffer<float> partials(segments * floats);
            for (size_t segment = segments; segment-- > 0;)
                kernels.attend_segment(split.task, segment, partials.data() + segment * floats, split.scratch.data());
            CHECK(kernels.join(split.task, partials.data()));
            CHECK(same_bits(split.output, whole));
        }
    });
}

TEST_CASE("a row's attention does not depend on its task") {
    const Shape shape{3, 32}, alone{1, 32};
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        const size_t first = KEY_SEGMENT - 10, positions = 20, length = first + positions;
        const KvCache cache = filled_cache(isa, precision, shape.head_size, random_rows(length, shape.head_size, 1),
                                           random_rows(length, shape.head_size, 2));
        const std::vector<float> queries = random_rows(positions * shape.group, shape.head_size, 3);
        const std::vector<float> together = attend(isa, cache, queries, first, shape);
        for (size_t row = 0; row < positions * shape.group; ++row) {
            const auto at = static_cast<ptrdiff_t>(row * shape.head_size);
            const auto end = at + static_cast<ptrdiff_t>(shape.head_size);
            const std::vector<float> query(queries.begin() + at, queries.begin() + end);
            const std::vector<float> expected(together.begin() + at, together.begin() + end);
            CHECK(same_bits(attend(isa, cache, query, first + row / shape.group, alone), expected));
        }
    });
}

TEST_CASE("attention ignores what lies behind the last position") {
    const Shape shape{7, 48};
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        const size_t length = 70;
        const std::vector<float> keys = random_rows(length, shape.head_size, 1);
        const std::vector<float> values = random_rows(length, shape.head_size, 2);
        std::vector<float> outputs[2];
        for (const int byte : {0x00, 0xff}) { // 0xff: NaNs in either float
            KvCache cache(1, 1, shape.head_size, precision);
            cache.reserve(length);
            const KvView view = cache.view(0, 0);
            std::memset(const_cast<std::byte *>(view.pages[0]), byte, cache.bytes());
            const ElementwiseKernels &kernels = elementwise_kernels(isa);
            for (size_t i = 0; i < length; ++i) {
                const size_t at = i * shape.head_size;
                kernels.store_key(keys.data() + at, shape.head_size, precision, cache.key(0, 0, i),
                                  cache.key_step(0, 0, i));
                kernels.store_value(values.data() + at, shape.head_size, precision, cache.value(0, 0, i),
                                    cache.value_step(0, 0, i));
            }
            outputs[byte != 0] =
                attend(isa, cache, random_rows(5 * shape.group, shape.head_size, 3), length - 5, shape);
        }
        CHECK(same_bits(outputs[0], outputs[1]));
    });
}

TEST_CASE("attention notices what is not finite") {
    const Shape shape{2, 16};
    for_each_kind([&](v2e_isa isa, KvPrecision precision) {
        const size_t length = 2 * KEY_SEGMENT + 1;
        std::vector<float> values = random_rows(length, shape.head_size, 2);
        const std::vector<float> keys = random_rows(length, shape.head_size, 1);
        KvCache cache = filled_cache(isa, precision, shape.head_size, keys, values);
        Question question(cache, random_rows(shape.group, shape.head_size, 3), length - 1, shape);
        question.queries[5] = HUGE_VALF;
        CHECK(!attention_kernels(isa).attend(question.task, question.scratch.data()));
    });
}

TEST_CASE("spreading keeps the products of heads") {
    for_each_isa([&](v2e_isa isa) {
        for (const size_t size : {size_t{16}, size_t{48}, size_t{80}, size_t{128}, size_t{512}}) {
            std::vector<float> pair = random_rows(2, size, 5), before = pair;
            spread(isa, pair, size);
            double product = 0, expected = 0;
            for (size_t i = 0; i < size; ++i) {
                product += static_cast<double>(pair[i]) * pair[size + i];
                expected += static_cast<double>(before[i]) * before[size + i];
            }
            CHECK(std::abs(product - expected) < 1e-4);
            CHECK(!same_bits(pair, before));
        }
    });
}

TEST_CASE("spreading makes one large channel equal ones") {
    for_each_isa([&](v2e_isa isa) {
        std::vector<float> head(128, 0.0f);
        head[77] = 128.0f;
        spread(isa, head, head.size());
        for (const float value : head)
            CHECK(std::abs(std::abs(value) - std::sqrt(128.0f)) < 1e-4f);
    });
}

// Errors against exact arithmetic on the values that were not rounded.
TEST_CASE("an int8 cache is precise for keys with outlier channels") {
    const Shape shape{7, 128};
    const size_t length = 600, first = length - 1;
    for_each_isa([&](v2e_isa isa) {
        for (const float outlier : {0.0f, 20.0f}) {
            std::vector<float> keys = random_rows(length, shape.head_size, 1);
            for (size_t i = 0; i < length; ++i) { // a pair of channels that the rotation turns
                keys[i * shape.head_size + 5] += outlier * std::cos(0.1f * static_cast<float>(i));
                keys[i * shape.head_size + 69] += outlier * std::sin(0.1f * static_cast<float>(i));
            }
            std::vector<float> queries = random_rows(shape.group, shape.head_size, 3);
            const std::vector<float> values = random_rows(length, shape.head_size, 2);
            const std::vector<double> exact = reference(queries, keys, values, first, shape);
            const KvCache plain = filled_cache(isa, KvPrecision::int8, shape.head_size, keys, values);
            const std::vector<float> output = attend(isa, plain, queries, first, shape);
            const double plain_error = relative_error({output.begin(), output.end()}, exact);
            spread(isa, queries, shape.head_size);
            spread(isa, keys, shape.head_size);
            const KvCache cache = filled_cache(isa, KvPrecision::int8, shape.head_size, keys, values);
            const std::vector<float> kept = attend(isa, cache, queries, first, shape);
            const double error = relative_error({kept.begin(), kept.end()}, exact);
            std::printf("  %s, outlier %2.0f: error %.4f, %.4f if the keys were not spread\n", isa_name(isa), outlier,
                        error, plain_error);
            CHECK(error < (outlier == 0.0f ? 0.015 : 0.03));
            CHECK((outlier == 0.0f || error < plain_error / 2));
        }
    });
}
