// The rounding kernels of every instruction set against plain loops in double precision.
#include "rounding/rounder.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"

#include <cmath>
#include <random>
#include <vector>

using namespace v2e;

namespace {

constexpr GroupGrid GRID = {32, 0.0f, 15.0f, 8.0f, true, true};

std::vector<float> normal(size_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> distribution;
    std::vector<float> values(count);
    for (float &value : values)
        value = distribution(generator);
    return values;
}

double squared_error(const float *weights, size_t count, float scale, float zero) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) {
        const double level = std::nearbyint(static_cast<double>(weights[i]) / scale) + zero;
        const double error = (std::fmin(std::fmax(level, 0.0), 15.0) - zero) * scale - weights[i];
        sum += error * error;
    }
    return sum;
}

} // namespace

TEST_CASE("searched scales are at least as good as those that cover the range") {
    constexpr size_t ROWS = 32, COLUMNS = 64, GROUPS = COLUMNS / 32;
    const std::vector<float> weights = normal(ROWS * COLUMNS, 1), importance(COLUMNS, 1.0f);
    for_each_isa([&](v2e_isa isa) {
        Rounder rounder(2, isa);
        GroupGrid plain = GRID;
        plain.search = false;
        std::vector<float> scales(GROUPS * ROWS), zeros(GROUPS * ROWS), wide(GROUPS * ROWS), wide_zeros(GROUPS * ROWS);
        CHECK(rounder.fit_groups(GRID, weights.data(), COLUMNS, importance.data(), ROWS, COLUMNS, scales.data(),
                                 zeros.data()) == 0);
        CHECK(rounder.fit_groups(plain, weights.data(), COLUMNS, importance.data(), ROWS, COLUMNS, wide.data(),
                                 wide_zeros.data()) == 0);
        double searched = 0, covering = 0;
        for (size_t row = 0; row < ROWS; ++row)
            for (size_t group = 0; group < GROUPS; ++group) {
                const float *part = weights.data() + row * COLUMNS + group * 32;
                const size_t at = group * ROWS + row;
                const double found = squared_error(part, 32, scales[at], zeros[at]);
                const double range = squared_error(part, 32, wide[at], wide_zeros[at]);
                CHECK(found <= range * (1 + 1e-5));
                searched += found;
                covering += range;
            }
        CHECK(searched < 0.95 * covering);
    });
}

TEST_CASE("a sparse product skips zeros and hits every column") {
    constexpr size_t ROWS = 3, INNER = 40, COLUMNS = 112;
    std::vector<float> changes = normal(ROWS * INNER, 2);
    for (size_t i = 0; i < changes.size(); ++i)
        if (i % 5 != 0)
            changes[i] = 0.0f;
    const std::vector<float> matrix = normal(INNER * COLUMNS, 3), before = normal(ROWS * COLUMNS, 4);
    for_each_isa([&](v2e_isa isa) {
        std::vector<float> target = before;
        Rounder(2, isa).add_sparse_product(changes.data(), ROWS, INNER, matrix.data(), COLUMNS, COLUMNS, target.data(),
                                           COLUMNS);
        for (size_t row = 0; row < ROWS; ++row)
            for (size_t column = 0; column < COLUMNS; ++column) {
                double sum = before[row * COLUMNS + column];
                for (size_t i = 0; i < INNER; ++i)
                    sum += static_cast<double>(changes[row * INNER + i]) * matrix[i * COLUMNS + column];
                CHECK(target[row * COLUMNS + column] == doctest::Approx(sum).epsilon(1e-4));
            }
    });
}

TEST_CASE("a visit ends where no other level of a column alone is better") {
    constexpr size_t ROWS = 16, COLUMNS = 32;
    const std::vector<float> weights = normal(ROWS * COLUMNS, 5), inputs = normal(100 * COLUMNS, 6);
    std::vector<float> hessian(COLUMNS * COLUMNS), added(COLUMNS, 1.0f);
    for (size_t i = 0; i < COLUMNS; ++i)
        for (size_t j = 0; j < COLUMNS; ++j)
            for (size_t token = 0; token < 100; ++token)
                hessian[i * COLUMNS + j] += (inputs[token * COLUMNS + i] + inputs[token * COLUMNS]) *
                                            (inputs[token * COLUMNS + j] + inputs[token * COLUMNS]) / 100;
    for_each_isa([&](v2e_isa isa) {
        Rounder rounder(1, isa);
        std::vector<float> scales(ROWS, 0.4f), zeros(ROWS, 8.0f), slopes(ROWS * COLUMNS), changes(ROWS * COLUMNS);
        std::vector<uint8_t> values(ROWS * COLUMNS, 8), moved(ROWS);
        std::vector<double> gains(ROWS);
        const auto slope = [&](size_t row, size_t column) {
            double sum = 0;
            for (size_t i = 0; i < COLUMNS; ++i) {
                const double change = 0.4f * (values[row * COLUMNS + i] - 8.0) - weights[row * COLUMNS + i];
                sum += change * (hessian[i * COLUMNS + column] + (i == column ? added[i] : 0.0f));
            }
            return sum;
        };
        for (size_t row = 0; row < ROWS; ++row)
            for (size_t column = 0; column < COLUMNS; ++column)
                slopes[row * COLUMNS + column] = static_cast<float>(slope(row, column));
        const VisitBlock block{
            GRID,          ROWS,    COLUMNS,       50,      false,         true,         nullptr,        0,
            slopes.data(), COLUMNS, values.data(), COLUMNS, scales.data(), zeros.data(), changes.data(), gains.data(),
            moved.data()};
        rounder.visit_columns(block, hessian.data(), COLUMNS, added.data());
        for (size_t row = 0; row < ROWS; ++row) {
            CHECK(moved[row] == 1);
            CHECK(gains[row] > 0);
            for (size_t column = 0; column < COLUMNS; ++column) {
                const double half_step = 0.5 * 0.4 * (hessian[column * COLUMNS + column] + added[column]);
                const int value = values[row * COLUMNS + column];
                CHECK(slopes[row * COLUMNS + column] == doctest::Approx(slope(row, column)).epsilon(1e-3));
                CHECK((value == 15 || slope(row, column) >= -half_step * (1 + 1e-4)));
                CHECK((value == 0 || slope(row, column) <= half_step * (1 + 1e-4)));
            }
        }
    });
}
