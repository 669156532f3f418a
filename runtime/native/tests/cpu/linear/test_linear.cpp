// Matrix products against double arithmetic, at every instruction set that the machine has or can emulate.
#include "cpu/linear/linear.hpp"
#include "cpu/linear/linear_kernels.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"
#include "tests/random_matrix.hpp"

#include <algorithm>
#include <limits>

using namespace v2e;

namespace v2e {

// linear_kernels_avxvnni() with AVX2 in place of the one instruction (CMakeLists.txt).
const LinearKernels *emulated_kernels_avxvnni();

} // namespace v2e

namespace {

// Kernels, and the instruction set that they need.
struct Kernels {
    v2e_isa isa;
    const LinearKernels *table;
};

// Those of the machine's instruction sets, and those of AVX-VNNI by way of AVX2.
template <class Body>
void for_each_kernels(Body &&body) {
    for_each_isa([&](v2e_isa isa) { body(Kernels{isa, linear_kernels(isa)}); });
    if (isa_available(V2E_ISA_AVX2))
        body(Kernels{V2E_ISA_AVX2, emulated_kernels_avxvnni()});
}

struct Setting {
    Kernels kernels;
    v2e_activations activations = V2E_ACTIVATIONS_INT8;
    unsigned threads = 1;
};

// (count, rows)
std::vector<float> multiply(const Setting &setting, const Matrix &matrix, const std::vector<float> &input, size_t count,
                            LinearScratch &scratch) {
    ThreadPool pool(setting.threads);
    const Linear linear(setting.kernels.isa, setting.kernels.table, setting.activations, pool);
    std::vector<float> output(count * matrix.rows, std::numeric_limits<float>::quiet_NaN());
    linear.apply(matrix, input.data(), count, matrix.columns, output.data(), matrix.rows, scratch);
    return output;
}

std::vector<float> multiply(const Setting &setting, const Matrix &matrix, const std::vector<float> &input,
                            size_t count) {
    LinearScratch scratch;
    return multiply(setting, matrix, input, count, scratch);
}

// (count, rows) in double, of input (count, columns) in double.
std::vector<double> reference(const RandomMatrix &weights, const std::vector<double> &input, size_t count) {
    const size_t rows = weights.matrix.rows, columns = weights.matrix.columns;
    std::vector<double> output(count * rows);
    for (size_t token = 0; token < count; ++token)
        for (size_t row = 0; row < rows; ++row) {
            double sum = weights.bias.empty() ? 0.0 : static_cast<double>(weights.bias[row]);
            for (size_t column = 0; column < columns; ++column)
                sum += input[token * columns + column] * weights.value(row, column);
            output[token * rows + row] = sum;
        }
    return output;
}

double relative_error(const std::vector<float> &actual, const std::vector<double> &expected) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
        difference += std::pow(actual[i] - expected[i], 2);
        norm += std::pow(expected[i], 2);
    }
    return std::sqrt(difference / norm);
}

std::vector<double> widen(const std::vector<float> &values) {
    return {values.begin(), values.end()};
}

// What the integer activations of a call stand for, (count, columns).
std::vector<double> dequantize(const QuantizedRows &rows, const Matrix &matrix, size_t count, size_t tile_rows,
                               bool two_planes) {
    std::vector<double> values(count * matrix.columns);
    const RowTiles tiles(count, tile_rows);
    for (size_t tile = 0; tile < tiles.tiles; ++tile) {
        const size_t first = tiles.first_row(tile), size = tiles.rows(tile);
        for (size_t row = 0; row < size; ++row)
            for (size_t column = 0; column < matrix.columns; ++column) {
                const size_t at = first * matrix.columns + column / 4 * 4 * size + row * 4 + column % 4;
                const int integer = (two_planes ? 128 * rows.high[at] : 0) + rows.low[at];
                const size_t group = first * matrix.groups() + column / matrix.group_size * size + row;
                values[(first + row) * matrix.columns + column] = integer * static_cast<double>(rows.scales[group]);
            }
    }
    return values;
}

struct Shape {
    size_t rows, columns, count;
};

// Odd rows, every remainder of the register tiles, the block borders of columns.
constexpr Shape SHAPES[] = {{1, 128, 1},    {64, 128, 2},  {63, 384, 3},   {65, 256, 4},  {130, 640, 5},
                            {64, 1152, 6},  {70, 128, 7},  {128, 896, 8},  {5, 256, 9},   {96, 384, 10},
                            {192, 128, 11}, {33, 512, 13}, {100, 640, 64}, {72, 256, 300}};

RandomMatrixOptions options_for(const Shape &shape, Precision precision, size_t group_size, bool symmetric) {
    RandomMatrixOptions options;
    options.precision = precision;
    options.rows = shape.rows;
    options.columns = shape.columns;
    options.group_size = group_size;
    options.symmetric = symmetric;
    options.bias = shape.rows % 2 == 0;
    options.seed = static_cast<uint32_t>(shape.rows * 7 + shape.columns + shape.count);
    return options;
}

void check_float(Precision precision) {
    for (const Shape &shape : SHAPES)
        for (const size_t columns : {shape.columns, shape.columns - 96}) {
            const Shape odd{shape.rows, columns, shape.count};
            const RandomMatrix weights = random_matrix(options_for(odd, precision, 0, true));
            const std::vector<float> input = random_rows(odd.count, columns, 3);
            const std::vector<double> expected = reference(weights, widen(input), odd.count);
            for_each_kernels([&](const Kernels &kernels) {
                const std::vector<float> actual =
                    multiply({kernels, V2E_ACTIVATIONS_INT8, 2}, weights.matrix, input, odd.count);
                CHECK(relative_error(actual, expected) < 1e-6);
            });
        }
}

void check_quantized(Precision precision, size_t group_size, bool symmetric, v2e_activations activations,
                     Code code = Code::uniform) {
    const bool two_planes = activations == V2E_ACTIVATIONS_INT16;
    for (const Shape &shape : SHAPES) {
        const size_t columns = shape.columns - (128 - group_size); // 32 alone as well, and odd numbers of groups
        const Shape odd{shape.rows, columns, shape.count};
        RandomMatrixOptions options = options_for(odd, precision, group_size, symmetric);
        options.code = code;
        const RandomMatrix weights = random_matrix(options);
        const std::vector<float> input = random_rows(odd.count, columns, 4);
        const std::vector<double> exact = reference(weights, widen(input), odd.count);
        for_each_kernels([&](const Kernels &kernels) {
            LinearScratch scratch;
            const std::vector<float> actual =
                multiply({kernels, activations, 2}, weights.matrix, input, odd.count, scratch);
            const std::vector<double> integers =
                dequantize(scratch.input, weights.matrix, odd.count, kernels.table->tile_rows, two_planes);
            CHECK(relative_error(actual, reference(weights, integers, odd.count)) < 1e-6);
            if (actual.size() >= 100) // fewer outputs may cancel by chance
                CHECK(relative_error(actual, exact) < (two_planes ? 1e-4 : 1.2e-2));
        });
    }
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The same tokens in one call, one by one, and in uneven chunks, on one to three threads.
void check_identical_bits(const Setting &setting, const RandomMatrix &weights, size_t count) {
    const size_t rows = weights.matrix.rows, columns = weights.matrix.columns;
    const std::vector<float> input = random_rows(count, columns, 5);
    const std::vector<float> whole = multiply(setting, weights.matrix, input, count);
    for (const unsigned threads : {2u, 3u})
        CHECK(
            same_bits(multiply({setting.kernels, setting.activations, threads}, weights.matrix, input, count), whole));
    for (const size_t chunk : {1u, 5u, 17u}) {
        std::vector<float> pieces;
        for (size_t first = 0; first < count; first += chunk) {
            const size_t last = std::min(count, first + chunk);
            const std::vector<float> part(input.begin() + static_cast<std::ptrdiff_t>(first * columns),
                                          input.begin() + static_cast<std::ptrdiff_t>(last * columns));
            const std::vector<float> output = multiply(setting, weights.matrix, part, last - first);
            pieces.insert(pieces.end(), output.begin(), output.end());
        }
        CHECK(pieces.size() == count * rows);
        CHECK(same_bits(pieces, whole));
    }
}

} // namespace

TEST_CASE("products in fp32 equals double arithmetic") {
    check_float(Precision::fp32);
}

TEST_CASE("products in fp16 equals double arithmetic") {
    check_float(Precision::fp16);
}

TEST_CASE("products in int4 equals double arithmetic on its operands") {
    for (const size_t group_size : {32u, 64u, 128u})
        for (const bool symmetric : {true, false})
            check_quantized(Precision::int4, group_size, symmetric, V2E_ACTIVATIONS_INT8);
}

TEST_CASE("products in int8 equals double arithmetic on its operands") {
    for (const size_t group_size : {32u, 64u, 128u})
        check_quantized(Precision::int8, group_size, true, V2E_ACTIVATIONS_INT8);
}

TEST_CASE("products in nf4 equals double arithmetic on its operands") {
    for (const size_t group_size : {32u, 64u, 128u})
        check_quantized(Precision::int4, group_size, true, V2E_ACTIVATIONS_INT8, Code::nf4);
}

TEST_CASE("int16 activations are a hundred times finer") {
    check_quantized(Precision::int4, 128, false, V2E_ACTIVATIONS_INT16);
    check_quantized(Precision::int4, 32, true, V2E_ACTIVATIONS_INT16);
    check_quantized(Precision::int8, 64, true, V2E_ACTIVATIONS_INT16);
    for (const size_t group_size : {32u, 128u})
        check_quantized(Precision::int4, group_size, true, V2E_ACTIVATIONS_INT16, Code::nf4);
}

TEST_CASE("products survive extreme integers") {
    // Every product at its limit: |a| = 127 and every weight of an even row the largest, of an odd row the smallest.
    struct Extremes {
        Precision precision;
        Code code;
        uint8_t largest_byte, smallest_byte;
        double largest, smallest;
    };
    for (const Extremes &extremes : {Extremes{Precision::int4, Code::uniform, 0xff, 0x00, 7, -8},
                                     Extremes{Precision::int4, Code::nf4, 0xff, 0x00, 127, -127},
                                     Extremes{Precision::int8, Code::uniform, 255, 1, 127, -127}}) {
        RandomMatrix weights = random_matrix(options_for({64, 256, 1}, extremes.precision, 128, true));
        weights.matrix.code = extremes.code;
        for (size_t i = 0; i < weights.weight.size(); ++i)
            weights.weight[i] = i / 4 % 2 == 0 ? extremes.largest_byte : extremes.smallest_byte;
        const std::vector<float> input(7 * 256, -3.0f);
        for_each_kernels([&](const Kernels &kernels) {
            for (const v2e_activations activations : {V2E_ACTIVATIONS_INT8, V2E_ACTIVATIONS_INT16}) {
                const std::vector<float> output = multiply({kernels, activations, 1}, weights.matrix, input, 7);
                for (size_t row = 0; row < 64; ++row) {
                    double expected = static_cast<double>(weights.bias[row]);
                    for (size_t group = 0; group < 2; ++group) {
                        const double scale = float_from_half(weights.scales[group * PANEL + row]);
                        const double q = row % 2 == 0 ? extremes.largest : extremes.smallest;
                        expected += 128 * q * scale * -3.0;
                    }
                    CHECK(std::fabs(output[6 * 64 + row] - expected) <= 1e-5 * std::fabs(expected));
                }
            }
        });
    }
}

TEST_CASE("products give the same bits for every thread count and split") {
    for_each_kernels([&](const Kernels &kernels) {
        for (const Precision precision : {Precision::int4, Precision::int8, Precision::fp16, Precision::fp32}) {
            const RandomMatrix wide = random_matrix(options_for({450, 384, 1}, precision, 64, true));
            check_identical_bits({kernels, V2E_ACTIVATIONS_INT8, 1}, wide, 61);
            check_identical_bits({kernels, V2E_ACTIVATIONS_INT16, 1}, wide, 23);
            const RandomMatrix narrow = random_matrix(options_for({66, 640, 1}, precision, 128, true));
            check_identical_bits({kernels, V2E_ACTIVATIONS_INT8, 1}, narrow, 300);
        }
        RandomMatrixOptions nf4 = options_for({450, 384, 1}, Precision::int4, 64, true);
        nf4.code = Code::nf4;
        check_identical_bits({kernels, V2E_ACTIVATIONS_INT8, 1}, random_matrix(nf4), 61);
        check_identical_bits({kernels, V2E_ACTIVATIONS_INT16, 1}, random_matrix(nf4), 23);
    });
}

// The integers are exact, and all that round the multiplication and the addition of a group's share in one do so alike.
TEST_CASE("products give the same bits with every instruction set that fuses") {
    for (const Shape &shape : SHAPES)
        for (const v2e_activations activations : {V2E_ACTIVATIONS_INT8, V2E_ACTIVATIONS_INT16})
            for (const Code code : {Code::uniform, Code::nf4}) {
                RandomMatrixOptions options = options_for(shape, Precision::int4, 32, code == Code::nf4);
                options.code = code;
                const RandomMatrix int4 = random_matrix(options);
                const RandomMatrix int8 = random_matrix(options_for(shape, Precision::int8, 64, true));
                const std::vector<float> input = random_rows(shape.count, shape.columns, 9);
                std::vector<float> int4_product, int8_product;
                for_each_kernels([&](const Kernels &kernels) {
                    if (kernels.isa == V2E_ISA_PORTABLE) // rounds twice
                        return;
                    const Setting setting{kernels, activations, 2};
                    const std::vector<float> first = multiply(setting, int4.matrix, input, shape.count);
                    const std::vector<float> second = multiply(setting, int8.matrix, input, shape.count);
                    if (int4_product.empty())
                        int4_product = first, int8_product = second;
                    CHECK(same_bits(first, int4_product));
                    CHECK(same_bits(second, int8_product));
                });
            }
}

TEST_CASE("products respect row strides") {
    const RandomMatrix weights = random_matrix(options_for({70, 128, 3}, Precision::int4, 128, false));
    const std::vector<float> input = random_rows(3, 128, 6);
    std::vector<float> spaced(3 * 150);
    for (size_t row = 0; row < 3; ++row)
        std::copy_n(input.data() + row * 128, 128, spaced.data() + row * 150);
    for_each_kernels([&](const Kernels &kernels) {
        ThreadPool pool(2);
        const Linear linear(kernels.isa, kernels.table, V2E_ACTIVATIONS_INT8, pool);
        LinearScratch scratch;
        std::vector<float> output(3 * 80, -7.0f);
        linear.apply(weights.matrix, spaced.data(), 3, 150, output.data(), 80, scratch);
        const std::vector<float> dense = multiply({kernels, V2E_ACTIVATIONS_INT8, 1}, weights.matrix, input, 3);
        for (size_t row = 0; row < 3; ++row) {
            CHECK(std::memcmp(output.data() + row * 80, dense.data() + row * 70, 70 * sizeof(float)) == 0);
            for (size_t gap = 70; gap < 80; ++gap)
                CHECK(output[row * 80 + gap] == -7.0f);
        }
    });
}

TEST_CASE("products of zero and tiny inputs are zero") {
    const RandomMatrix weights = random_matrix(options_for({63, 128, 1}, Precision::int4, 32, false));
    for_each_kernels([&](const Kernels &kernels) {
        for (const float value : {0.0f, -0.0f, 1e-39f, 1e-31f}) {
            const std::vector<float> input(2 * 128, value);
            for (const float product : multiply({kernels, V2E_ACTIVATIONS_INT16, 1}, weights.matrix, input, 2))
                CHECK(product == 0.0f);
        }
    });
}

TEST_CASE("products carry a NaN or an infinity into every output of its row") {
    for (const Precision precision : {Precision::int4, Precision::int8, Precision::fp32}) {
        const RandomMatrix weights = random_matrix(options_for({64, 256, 1}, precision, 64, true));
        for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
            for_each_kernels([&](const Kernels &kernels) {
                std::vector<float> input = random_rows(3, 256, 8);
                input[256 + 77] = bad;
                const std::vector<float> output =
                    multiply({kernels, V2E_ACTIVATIONS_INT8, 1}, weights.matrix, input, 3);
                for (size_t row = 0; row < 64; ++row) {
                    CHECK(std::isfinite(output[row]));
                    CHECK(!std::isfinite(output[64 + row]));
                    CHECK(std::isfinite(output[128 + row]));
                }
            });
    }
}

TEST_CASE("Linear refuses an instruction set that the machine lacks") {
    ThreadPool pool(1);
    for (const v2e_isa isa : ALL_ISAS)
        if (!isa_available(isa))
            CHECK_FAILS(V2E_ERROR_INPUT, isa_name(isa), Linear(isa, V2E_ACTIVATIONS_INT8, pool));
    CHECK(Linear(V2E_ISA_AUTO, V2E_ACTIVATIONS_INT8, pool).isa() == best_isa());
}
