// Random weight matrices, packed as docs/bundle.md describes the panels, and what they stand for.
#pragma once

#include "base/half.hpp"
#include "base/platform.hpp"
#include "bundle/matrix.hpp"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace v2e {

struct RandomMatrix {
    Matrix matrix;
    AlignedBuffer<uint8_t> weight;
    AlignedBuffer<uint16_t> scales;
    AlignedBuffer<uint8_t> zeros;
    std::vector<float> bias;
    std::vector<double> values; // (rows, columns), dequantised; empty when not kept

    double value(size_t row, size_t column) const { return values[row * matrix.columns + column]; }
};

struct RandomMatrixOptions {
    Precision precision = Precision::int4;
    Code code = Code::uniform;
    size_t rows = 64;
    size_t columns = 128;
    size_t group_size = 128;
    bool symmetric = true;
    bool bias = false;
    uint32_t seed = 1;
    bool keep_values = true;
};

// Four bits as 4-bit NormalFloat: the codes of QLoRA (arXiv 2305.14314, appendix E) in units of 1 / 127.
inline double nf4_level(uint32_t q) {
    constexpr double CODES[16] = {-1.0,
                                  -0.6961928009986877,
                                  -0.5250730514526367,
                                  -0.39491748809814453,
                                  -0.28444138169288635,
                                  -0.18477343022823334,
                                  -0.09105003625154495,
                                  0.0,
                                  0.07958029955625534,
                                  0.16093020141124725,
                                  0.24611230194568634,
                                  0.33791524171829224,
                                  0.44070982933044434,
                                  0.5626170039176941,
                                  0.7229568362236023,
                                  1.0};
    return std::round(CODES[q] * 127);
}

class MatrixPacker {
  public:
    explicit MatrixPacker(const RandomMatrixOptions &options) : options_(options), random_(options.seed) {
        Matrix &matrix = result_.matrix;
        matrix.precision = options.precision;
        matrix.code = options.code;
        matrix.rows = options.rows;
        matrix.columns = options.columns;
        matrix.symmetric = options.symmetric;
        if (matrix.quantized())
            matrix.group_size = options.group_size;
    }

    RandomMatrix pack() {
        Matrix &matrix = result_.matrix;
        if (options_.keep_values)
            result_.values.assign(matrix.rows * matrix.columns, 0.0);
        if (matrix.quantized())
            pack_quantized();
        else
            pack_floats();
        matrix.weight = result_.weight.data();
        if (options_.bias) {
            for (size_t row = 0; row < matrix.rows; ++row)
                result_.bias.push_back(normal_(random_));
            matrix.bias = result_.bias.data();
        }
        return std::move(result_);
    }

  private:
    void pack_floats() {
        Matrix &matrix = result_.matrix;
        const size_t count = matrix.panels() * matrix.columns * PANEL;
        const bool half = matrix.precision == Precision::fp16;
        matrix.weight_bytes = count * (half ? 2 : 4);
        result_.weight = AlignedBuffer<uint8_t>(matrix.weight_bytes);
        std::memset(result_.weight.data(), 0, matrix.weight_bytes);
        for (size_t row = 0; row < matrix.rows; ++row)
            for (size_t column = 0; column < matrix.columns; ++column) {
                const size_t at = (row / PANEL * matrix.columns + column) * PANEL + row % PANEL;
                float value = normal_(random_);
                if (half) {
                    const uint16_t bits = half_from_float(value);
                    value = float_from_half(bits);
                    std::memcpy(result_.weight.data() + at * 2, &bits, 2);
                } else {
                    std::memcpy(result_.weight.data() + at * 4, &value, 4);
                }
                keep(row, column, value);
            }
    }

    void pack_quantized() {
        Matrix &matrix = result_.matrix;
        const bool int4 = matrix.precision == Precision::int4;
        const size_t padded = matrix.panels() * PANEL, scale_count = padded * matrix.groups();
        const size_t weight_count = padded * matrix.columns / (int4 ? 2 : 1);
        result_.weight = AlignedBuffer<uint8_t>(weight_count);
        std::memset(result_.weight.data(), 0, weight_count);
        result_.scales = AlignedBuffer<uint16_t>(scale_count);
        result_.zeros = AlignedBuffer<uint8_t>(scale_count);
        std::memset(result_.zeros.data(), 8, scale_count);
        std::memset(result_.scales.data(), 0, scale_count * sizeof(uint16_t));
        matrix.scales = result_.scales.data();
        matrix.zeros = matrix.symmetric ? nullptr : result_.zeros.data();
        matrix.weight_bytes = weight_count + scale_count * (matrix.symmetric ? 2 : 3);
        for (size_t row = 0; row < padded; ++row)
            for (size_t group = 0; group < matrix.groups(); ++group)
                int4 ? pack_int4_group(row, group) : pack_int8_group(row, group);
    }

    size_t scale_index(size_t row, size_t group) const {
        return (row / PANEL * result_.matrix.groups() + group) * PANEL + row % PANEL;
    }

    // Padded rows keep the scale 0.
    double draw_scale(size_t row, size_t group) {
        if (row >= result_.matrix.rows)
            return 0;
        const uint16_t bits = half_from_float(0.01f + 0.001f * static_cast<float>(random_() % 64));
        result_.scales[scale_index(row, group)] = bits;
        return float_from_half(bits);
    }

    void pack_int4_group(size_t row, size_t group) {
        const Matrix &matrix = result_.matrix;
        const double scale = draw_scale(row, group);
        const bool padding = row >= matrix.rows;
        const bool nf4 = matrix.code == Code::nf4;
        const uint32_t zero = nf4 ? 7 : matrix.symmetric || padding ? 8 : random_() % 16;
        result_.zeros[scale_index(row, group)] = static_cast<uint8_t>(zero);
        for (size_t column = group * matrix.group_size; column < (group + 1) * matrix.group_size; ++column) {
            const uint32_t q = padding ? zero : random_() % 16;
            const size_t block = row / PANEL * (matrix.columns / 8) + column / 8;
            const size_t byte = (block * PANEL + row % PANEL) * 4 + column % 4;
            result_.weight[byte] |= static_cast<uint8_t>(column % 8 < 4 ? q : q << 4);
            const double steps = static_cast<double>(q) - static_cast<double>(zero);
            keep(row, column, (nf4 ? nf4_level(q) : steps) * scale);
        }
    }

    void pack_int8_group(size_t row, size_t group) {
        const Matrix &matrix = result_.matrix;
        const double scale = draw_scale(row, group);
        for (size_t column = group * matrix.group_size; column < (group + 1) * matrix.group_size; ++column) {
            const int q = row >= matrix.rows ? 0 : static_cast<int>(random_() % 255) - 127;
            const size_t quad = row / PANEL * (matrix.columns / 4) + column / 4;
            result_.weight[(quad * PANEL + row % PANEL) * 4 + column % 4] = static_cast<uint8_t>(q + 128);
            keep(row, column, q * scale);
        }
    }

    void keep(size_t row, size_t column, double value) {
        if (options_.keep_values && row < result_.matrix.rows)
            result_.values[row * result_.matrix.columns + column] = value;
    }

    RandomMatrixOptions options_;
    std::mt19937 random_;
    std::normal_distribution<float> normal_;
    RandomMatrix result_;
};

inline RandomMatrix random_matrix(const RandomMatrixOptions &options) {
    return MatrixPacker(options).pack();
}

inline std::vector<float> random_rows(size_t count, size_t columns, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> rows(count * columns);
    for (float &value : rows)
        value = normal(random);
    return rows;
}

} // namespace v2e
