// A weight matrix in the panel layout of the bundle, where it lies in the mapped file.
#pragma once

#include "base/json.hpp"
#include "bundle/safetensors.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace v2e {

constexpr size_t PANEL = 64; // rows that lie together, padded with scale 0

enum class Precision { int4, int8, fp16, fp32 };

// What the four bits of an int4 weight mean: a level of equal steps, or an index into the table of 4-bit NormalFloat.
enum class Code { uniform, nf4 };

// Layouts, P = panels():
//   fp32  weight F32 (P, columns, 64);  fp16  weight F16 (P, columns, 64)
//   int8  weight U8 (P, columns / 4, 64, 4), q + 128
//   int4  weight U8 (P, columns / 8, 64, 4), low nibble column 8b + j, high nibble column 8b + 4 + j; nf4 likewise
//   scales F16 (P, columns / group_size, 64); zeros U8 (P, columns / group_size, 64), null when symmetric
struct Matrix {
    Precision precision = Precision::fp32;
    Code code = Code::uniform;
    size_t rows = 0;
    size_t columns = 0;
    size_t group_size = 0; // 0 for fp16 and fp32
    bool symmetric = true;
    const void *weight = nullptr;
    const uint16_t *scales = nullptr;
    const uint8_t *zeros = nullptr;
    const float *bias = nullptr; // (rows,), null when there is none
    size_t weight_bytes = 0;     // size of all its tensors

    bool quantized() const { return precision == Precision::int4 || precision == Precision::int8; }
    size_t panels() const { return (rows + PANEL - 1) / PANEL; }
    size_t groups() const { return group_size == 0 ? 0 : columns / group_size; }
};

// `matrices` is the object of the same name in the file's metadata. Fails with V2E_ERROR_BUNDLE, naming the tensor.
Matrix load_matrix(const SafetensorsFile &file, const std::string &name, const Json &matrices);

} // namespace v2e
