// The kernels of the vision towers against arithmetic in double, under every instruction set that the machine has.
#include "base/half.hpp"
#include "base/platform.hpp"
#include "cpu/vision/vision_kernels.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

using namespace v2e;

namespace {

constexpr size_t PADDING = 64;

template <class Body>
void for_every_isa(Body &&body) {
    for_each_isa([&](v2e_isa isa) { body(vision_kernels(isa)); });
}

std::vector<float> random_floats(size_t count, float deviation, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(count + PADDING, 1e30f); // what lies behind is never to count
    std::generate_n(values.begin(), count, [&] { return normal(generator); });
    return values;
}

double relative_error(const std::vector<double> &expected, const std::vector<float> &found) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        difference += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

uint16_t bf16_of(float value) {
    return static_cast<uint16_t>((bits_from_float(value) + 0x8000u) >> 16);
}

// A matrix as a tower's file has it.
struct TestMatrix {
    size_t outputs, columns;
    VisionPrecision precision;
    AlignedBuffer<std::byte> weight;
    AlignedBuffer<float> scales, bias;
    AlignedBuffer<int32_t> sums;
    std::vector<double> values; // (outputs, columns): what the file's numbers mean

    TestMatrix(size_t output_count, size_t column_count, VisionPrecision stored, unsigned seed)
        : outputs(output_count), columns(column_count), precision(stored), values(outputs * columns) {
        const size_t per_word = values_in_word(precision), words = (columns + per_word - 1) / per_word;
        const size_t padded = round_up(outputs, VISION_PANEL);
        weight = AlignedBuffer<std::byte>(padded * words * 4);
        scales = AlignedBuffer<float>(padded);
        bias = AlignedBuffer<float>(padded);
        sums = AlignedBuffer<int32_t>(padded);
        std::fill_n(weight.data(), padded * words * 4, std::byte{0});
        std::fill_n(scales.data(), padded, 0.0f);
        std::fill_n(bias.data(), padded, 0.0f);
        std::fill_n(sums.data(), padded, 0);
        const std::vector<float> given = random_floats(outputs * columns, 1.0f, seed);
        for (size_t output = 0; output < outputs; ++output) {
            scales[output] = 0.01f + 0.001f * static_cast<float>(output % 7);
            bias[output] = 0.1f * static_cast<float>(output % 5);
            for (size_t column = 0; column < columns; ++column) {
                const size_t word = (output / VISION_PANEL * words + column / per_word) * VISION_PANEL;
                std::byte *place = weight.data() + (word + output % VISION_PANEL) * 4;
                const float value = given[output * columns + column];
                if (precision == VisionPrecision::int8) {
                    const auto q = static_cast<int8_t>(std::clamp(std::round(40 * value), -127.0f, 127.0f));
                    std::memcpy(place + column % 4, &q, 1);
                    sums[output] += q;
                    values[output * columns + column] = static_cast<double>(q) * static_cast<double>(scales[output]);
                } else if (precision == VisionPrecision::fp32) {
                    std::memcpy(place, &value, 4);
                    values[output * columns + column] = static_cast<double>(value);
                } else {
                    const uint16_t bits = bf16_of(value);
                    std::memcpy(place + 2 * (column % 2), &bits, 2);
                    values[output * columns + column] = static_cast<double>(float_from_bf16(bits));
                }
            }
        }
    }

    VisionPanels panels() const {
        const bool integers = precision == VisionPrecision::int8;
        return {weight.data(), integers ? scales.data() : nullptr, integers ? sums.data() : nullptr, bias.data(),
                columns};
    }
    size_t panel_count() const { return round_up(outputs, VISION_PANEL) / VISION_PANEL; }
};

// Rows packed for an arithmetic: row by row for attention, and as a product wants them.
struct TestRows {
    AlignedBuffer<uint32_t> words, product;
    AlignedBuffer<float> scales;
    AlignedBuffer<int32_t> zeros;
    VisionRows by_row{}, rows{};

    TestRows(const VisionArithmetic &arithmetic, const std::vector<float> &values, size_t count, size_t columns) {
        const size_t stride = row_words(arithmetic, columns), padded = round_up(count, arithmetic.tile_rows);
        words = AlignedBuffer<uint32_t>(padded * stride);
        scales = AlignedBuffer<float>(count);
        zeros = AlignedBuffer<int32_t>(count);
        std::fill_n(words.data(), padded * stride, 0u);
        product = AlignedBuffer<uint32_t>(product_words(arithmetic, columns, count));
        std::fill_n(product.data(), product_words(arithmetic, columns, count), 0x7fc07fc0u); // NaNs, where floats lie
        for (size_t row = 0; row < count; ++row) {
            CHECK(arithmetic.pack_row(values.data() + row * columns, columns, words.data() + row * stride,
                                      scales.data() + row, zeros.data() + row));
            place_row(arithmetic, words.data() + row * stride, columns, row, count, product.data());
        }
        by_row = {words.data(), stride, scales.data(), zeros.data(), count};
        rows = {product.data(), 0, scales.data(), zeros.data(), count};
    }
};

double normal_share(double x) {
    return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

double finished(double x, Finish finish) {
    switch (finish) {
    case Finish::gelu:
        return x * normal_share(x);
    case Finish::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    case Finish::quick_gelu:
        return x / (1 + std::exp(-1.702 * x));
    default:
        return x;
    }
}

void check_product(const VisionArithmetic &arithmetic, VisionPrecision precision, size_t count, size_t outputs,
                   size_t columns, Finish finish, double tolerance) {
    const TestMatrix matrix(outputs, columns, precision, 7);
    const std::vector<float> input = random_floats(count * columns, 0.3f, 11);
    const TestRows packed(arithmetic, input, count, columns);
    const size_t stride = matrix.panel_count() * VISION_PANEL;
    std::vector<float> output(count * stride, 0.25f);
    std::vector<uint32_t> scratch(VISION_BLOCK_WORDS * VISION_PANEL);
    arithmetic.multiply(matrix.panels(), 0, matrix.panel_count(), packed.rows, {output.data(), stride, finish},
                        scratch.data());
    std::vector<double> expected;
    std::vector<float> found;
    for (size_t row = 0; row < count; ++row)
        for (size_t i = 0; i < outputs; ++i) {
            double sum = static_cast<double>(matrix.bias[i]);
            for (size_t column = 0; column < columns; ++column)
                sum += static_cast<double>(input[row * columns + column]) * matrix.values[i * columns + column];
            expected.push_back(finished(sum, finish) + (finish == Finish::add ? 0.25 : 0.0));
            found.push_back(output[row * stride + i]);
        }
    const double error = relative_error(expected, found);
    CHECK(error < tolerance);
    if (!(error < tolerance))
        std::printf("  %zu x %zu x %zu, finish %d: %.2e\n", count, outputs, columns, static_cast<int>(finish), error);
}

} // namespace

TEST_CASE("vision products equal double arithmetic") {
    for_every_isa([](const VisionKernels &kernels) {
        for (const Finish finish : {Finish::store, Finish::add, Finish::gelu, Finish::gelu_tanh, Finish::quick_gelu}) {
            // Activations in 256 steps: 3e-3 of their largest.
            check_product(kernels.int8, VisionPrecision::int8, 13, 70, 590, finish, 1.5e-2);
            check_product(kernels.bf16, VisionPrecision::bf16, 13, 70, 589, finish,
                          kernels.multiplies_bf16 ? 5e-3 : 1e-5);
            check_product(kernels.fp32, VisionPrecision::fp32, 13, 70, 589, finish, 1e-6);
        }
        check_product(kernels.int8, VisionPrecision::int8, 101, 33, 40, Finish::store,
                      1.5e-2); // more rows than have sums at once
        for (const size_t columns : {1, 3, 16, 17, 72, 129}) {
            check_product(kernels.int8, VisionPrecision::int8, 5, 33, columns, Finish::store, 2e-2);
            check_product(kernels.bf16, VisionPrecision::bf16, 25, 33, columns, Finish::store,
                          kernels.multiplies_bf16 ? 8e-3 : 1e-5);
            check_product(kernels.fp32, VisionPrecision::fp32, 25, 33, columns, Finish::store, 1e-6);
        }
    });
}

TEST_CASE("vision int8 products are exact for whole numbers") {
    // 256 values from 0 to 255, one step apart: nothing is rounded, so the largest sums show any saturation.
    for_every_isa([](const VisionKernels &kernels) {
        constexpr size_t COLUMNS = 256;
        std::vector<float> input(COLUMNS + PADDING);
        for (size_t i = 0; i < COLUMNS; ++i)
            input[i] = static_cast<float>(255 - i % 2 * 255); // pairs of the largest and the smallest
        TestMatrix matrix(32, COLUMNS, VisionPrecision::int8, 1);
        std::fill_n(matrix.weight.data(), 32 * COLUMNS, std::byte{127});
        std::fill_n(matrix.sums.data(), 32, 127 * static_cast<int32_t>(COLUMNS));
        std::fill_n(matrix.bias.data(), 32, 0.0f);
        std::fill_n(matrix.scales.data(), 32, 1.0f);
        const TestRows packed(kernels.int8, input, 1, COLUMNS);
        std::vector<float> output(32);
        std::vector<uint32_t> scratch(VISION_BLOCK_WORDS * VISION_PANEL);
        kernels.int8.multiply(matrix.panels(), 0, 1, packed.rows, {output.data(), 32, Finish::store}, scratch.data());
        for (const float value : output)
            CHECK(std::fabs(value - 127.0f * 255.0f * 128.0f) < 1.0f);
    });
}

TEST_CASE("vision rows with a NaN or an infinity are noticed") {
    for_every_isa([](const VisionKernels &kernels) {
        for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -INFINITY}) {
            std::vector<float> row = random_floats(37, 1.0f, 3), output(37 + PADDING), ones(37 + PADDING, 1.0f);
            row[36] = bad;
            uint32_t words[PADDING];
            float scale;
            int32_t zero;
            CHECK(!kernels.int8.pack_row(row.data(), 37, words, &scale, &zero));
            CHECK(!kernels.bf16.pack_row(row.data(), 37, words, &scale, &zero));
            CHECK(!kernels.layer_norm(row.data(), 37, ones.data(), ones.data(), 1e-6f, output.data()));
        }
    });
}

TEST_CASE("the vision layer norm equals double arithmetic") {
    for_every_isa([](const VisionKernels &kernels) {
        for (const size_t size : {1, 15, 16, 37, 144, 1152}) {
            const std::vector<float> row = random_floats(size, 3.0f, 5), weight = random_floats(size, 1.0f, 6);
            const std::vector<float> bias = random_floats(size, 1.0f, 8);
            std::vector<float> output(size + PADDING);
            CHECK(kernels.layer_norm(row.data(), size, weight.data(), bias.data(), 1e-3f, output.data()));
            double mean = 0, variance = 0;
            for (size_t i = 0; i < size; ++i)
                mean += row[i] / static_cast<double>(size);
            for (size_t i = 0; i < size; ++i)
                variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(size);
            std::vector<double> expected;
            for (size_t i = 0; i < size; ++i)
                expected.push_back((row[i] - mean) / std::sqrt(variance + 1e-3) * weight[i] + bias[i]);
            CHECK(relative_error(expected, output) < 1e-5);
        }
    });
}

TEST_CASE("the vision softmax and its tail equal double arithmetic") {
    for_every_isa([](const VisionKernels &kernels) {
        constexpr size_t SIZE = 1001;
        const std::vector<float> scores = random_floats(SIZE, 4.0f, 9);
        std::vector<float> row = scores;
        const float total = kernels.soften_row(row.data(), SIZE);
        const float largest = *std::max_element(scores.begin(), scores.begin() + SIZE);
        double expected_total = 0, expected_tail = 0;
        for (size_t i = 0; i < SIZE; ++i) {
            const double value = std::exp(static_cast<double>(scores[i]) - largest);
            CHECK(std::fabs(row[i] - value) < 1e-6);
            expected_total += value;
            expected_tail += row[i] < 1e-3f ? static_cast<double>(row[i]) : 0.0;
        }
        CHECK(std::fabs(total - expected_total) < 1e-5 * expected_total);
        CHECK(std::fabs(kernels.sum_below(row.data(), SIZE, 1e-3f) - expected_tail) < 1e-5);
    });
}

TEST_CASE("vision products of picked words leave out the others") {
    for_every_isa([](const VisionKernels &kernels) {
        constexpr size_t COLUMNS = 200, ROWS = 5, OUTPUTS = 40;
        const TestMatrix matrix(OUTPUTS, COLUMNS, VisionPrecision::bf16, 2);
        const uint32_t picks[] = {1, 2, 50, 99}; // some of 100 pairs
        const std::vector<float> input = random_floats(ROWS * 8, 1.0f, 4);
        const TestRows packed(kernels.bf16, input, ROWS, 8);
        VisionPanels panels = matrix.panels();
        panels.picks = picks;
        panels.pick_count = 4;
        std::vector<float> output(ROWS * 64), found;
        std::vector<uint32_t> scratch(VISION_BLOCK_WORDS * VISION_PANEL);
        kernels.bf16.multiply(panels, 0, 2, packed.rows, {output.data(), 64, Finish::store}, scratch.data());
        std::vector<double> expected;
        for (size_t row = 0; row < ROWS; ++row)
            for (size_t i = 0; i < OUTPUTS; ++i) {
                double sum = static_cast<double>(matrix.bias[i]);
                for (size_t k = 0; k < 8; ++k)
                    sum += input[row * 8 + k] * matrix.values[i * COLUMNS + picks[k / 2] * 2 + k % 2];
                expected.push_back(sum);
                found.push_back(output[row * 64 + i]);
            }
        CHECK(relative_error(expected, found) < 8e-3);
    });
}

namespace {

void check_attention(const VisionArithmetic &arithmetic, size_t keys, size_t size, double tolerance) {
    const size_t stride = 3 * size + 5, width = round_up(size, VISION_LANES), padded = round_up(keys, VISION_PANEL);
    std::vector<float> values = random_floats(keys * stride, 1.0f, 21);
    for (size_t key = 0; key < keys; ++key)
        values[key * stride + size] += 8.0f; // a channel that all keys share changes nothing
    AlignedBuffer<uint32_t> memory(padded * width * 2 + 2 * padded + width);
    VisionHead head{};
    head.keys = memory.data();
    head.values = head.keys + padded * row_words(arithmetic, size);
    head.key_scales = reinterpret_cast<float *>(head.values + padded / arithmetic.per_word * width);
    head.key_sums = reinterpret_cast<int32_t *>(head.key_scales + padded);
    head.value_scales = reinterpret_cast<float *>(head.key_sums + padded);
    head.count = keys;
    head.size = size;
    arithmetic.pack_head(values.data() + size, values.data() + 2 * size, stride, head);
    const size_t count = std::min(arithmetic.tile_rows, keys);
    std::vector<float> queries;
    for (size_t row = 0; row < count; ++row)
        queries.insert(queries.end(), values.begin() + static_cast<std::ptrdiff_t>(row * stride),
                       values.begin() + static_cast<std::ptrdiff_t>(row * stride + size));
    queries.resize(queries.size() + PADDING);
    const TestRows packed(arithmetic, queries, count, size);
    std::vector<float> output(count * size), scratch(vision_attention_floats(size));
    CHECK(arithmetic.attend(packed.by_row, head, 0.3f, output.data(), size, scratch.data()));
    std::vector<double> expected(count * size, 0.0);
    for (size_t row = 0; row < count; ++row) {
        std::vector<double> weights(keys);
        double total = 0;
        for (size_t key = 0; key < keys; ++key) {
            double score = 0;
            for (size_t i = 0; i < size; ++i)
                score += static_cast<double>(values[row * stride + i]) * values[key * stride + size + i];
            total += weights[key] = std::exp(0.3 * score - 40);
        }
        for (size_t key = 0; key < keys; ++key)
            for (size_t i = 0; i < size; ++i)
                expected[row * size + i] += weights[key] / total * values[key * stride + 2 * size + i];
    }
    const double error = relative_error(expected, output);
    CHECK(error < tolerance);
    if (!(error < tolerance))
        std::printf("  attention of %zu keys, %zu channels: %.2e\n", keys, size, error);
}

} // namespace

TEST_CASE("vision attention equals double arithmetic") {
    for_each_isa([](v2e_isa isa) {
        const VisionKernels &kernels = vision_kernels(isa);
        const double int8_tolerance = isa == V2E_ISA_NEON ? 1.2e-1 : 8e-2; // its probabilities have half the steps
        for (const size_t keys : {1, 5, 33, 729, 1030})
            for (const size_t size : {4, 72, 80}) {
                check_attention(kernels.int8, keys, size, int8_tolerance);
                check_attention(kernels.bf16, keys, size, kernels.multiplies_bf16 ? 2e-2 : 1e-4);
                check_attention(kernels.fp32, keys, size, 1e-5);
            }
    });
}
