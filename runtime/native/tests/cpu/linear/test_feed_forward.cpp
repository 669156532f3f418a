// The feed-forward block against its parts, at every instruction set that the machine has.
#include "cpu/linear/linear.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"
#include "tests/random_matrix.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

using namespace v2e;

namespace {

constexpr size_t HIDDEN = 128;

struct Block {
    RandomMatrix gate_up, down;

    // The halves of gate_up begin within a panel unless `middle` is a multiple of 64.
    Block(size_t middle, Precision precision, size_t group_size)
        : gate_up(make(2 * middle, HIDDEN, precision, group_size)), down(make(HIDDEN, middle, precision, group_size)) {}

    static RandomMatrix make(size_t rows, size_t columns, Precision precision, size_t group_size) {
        RandomMatrixOptions options;
        options.rows = rows;
        options.columns = columns;
        options.precision = precision;
        options.group_size = group_size;
        options.symmetric = precision == Precision::int8;
        return random_matrix(options);
    }
};

struct Setting {
    v2e_isa isa;
    v2e_activations activations;
    unsigned threads;
};

// What is added to ones: (count, HIDDEN).
std::vector<float> together(const Setting &setting, const Block &block, const std::vector<float> &input) {
    ThreadPool pool(setting.threads);
    const Linear linear(setting.isa, setting.activations, pool);
    LinearScratch scratch;
    std::vector<float> output(input.size(), 1.0f);
    CHECK(linear.feed_forward(block.gate_up.matrix, block.down.matrix, input.data(), input.size() / HIDDEN,
                              output.data(), scratch));
    return output;
}

std::vector<float> in_parts(const Setting &setting, const Block &block, const std::vector<float> &input) {
    ThreadPool pool(setting.threads);
    const Linear linear(setting.isa, setting.activations, pool);
    LinearScratch scratch;
    const size_t count = input.size() / HIDDEN, middle = block.down.matrix.columns;
    std::vector<float> both(count * 2 * middle), product(count * HIDDEN), output(input.size(), 1.0f);
    linear.apply(block.gate_up.matrix, input.data(), count, HIDDEN, both.data(), 2 * middle, scratch);
    for (size_t row = 0; row < count; ++row) {
        float *gate = both.data() + row * 2 * middle;
        CHECK(elementwise_kernels(setting.isa).swiglu(gate, gate + middle, middle));
    }
    linear.apply(block.down.matrix, both.data(), count, 2 * middle, product.data(), HIDDEN, scratch);
    for (size_t i = 0; i < output.size(); ++i)
        output[i] += product[i];
    return output;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_block(const Block &block, v2e_activations activations) {
    for_each_isa([&](v2e_isa isa) {
        for (const size_t count : {1u, 2u, 7u, 50u}) {
            const std::vector<float> input = random_rows(count, HIDDEN, 3);
            const std::vector<float> parts = in_parts({isa, activations, 1}, block, input);
            for (const unsigned threads : {1u, 3u})
                CHECK(same_bits(together({isa, activations, threads}, block, input), parts));
            const std::vector<float> first(input.begin(), input.begin() + HIDDEN);
            const std::vector<float> alone = together({isa, activations, 2}, block, first);
            CHECK(std::memcmp(alone.data(), parts.data(), HIDDEN * sizeof(float)) == 0);
        }
    });
}

} // namespace

TEST_CASE("the feed-forward part gives the bits of its parts") {
    check_block(Block(192, Precision::int4, 64), V2E_ACTIVATIONS_INT8);
    check_block(Block(256, Precision::int4, 128), V2E_ACTIVATIONS_INT8);
    check_block(Block(320, Precision::int8, 32), V2E_ACTIVATIONS_INT8);
    check_block(Block(384, Precision::int4, 128), V2E_ACTIVATIONS_INT16);
}

TEST_CASE("the feed-forward part takes halves that share a panel, and floats") {
    check_block(Block(96, Precision::int4, 32), V2E_ACTIVATIONS_INT8);
    check_block(Block(128, Precision::fp16, 0), V2E_ACTIVATIONS_INT8);
    check_block(Block(48, Precision::fp32, 0), V2E_ACTIVATIONS_INT8);
}

TEST_CASE("the feed-forward part notices values that are not finite") {
    for (const size_t middle : {192u, 96u}) {
        const Block block(middle, Precision::int4, 32);
        for_each_isa([&](v2e_isa isa) {
            std::vector<float> input = random_rows(9, HIDDEN, 3), output(input.size());
            input[8 * HIDDEN + 5] = std::numeric_limits<float>::infinity();
            ThreadPool pool(2);
            const Linear linear(isa, V2E_ACTIVATIONS_INT8, pool);
            LinearScratch scratch;
            CHECK(
                !linear.feed_forward(block.gate_up.matrix, block.down.matrix, input.data(), 9, output.data(), scratch));
        });
    }
}
