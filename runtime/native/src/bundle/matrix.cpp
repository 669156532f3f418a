#include "bundle/matrix.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

#include <set>

namespace v2e {
namespace {

constexpr size_t ALIGNMENT = 64;
constexpr uint64_t MAX_SIDE = uint64_t{1} << 31; // keeps every product of sizes within 64 bits

class MatrixReader {
  public:
    MatrixReader(const SafetensorsFile &file, const std::string &name) : file_(file), name_(name) {}

    // Data of a tensor whose dtype and shape are as expected; adds its size to the matrix.
    const void *read(const char *part, const char *dtype, const std::vector<uint64_t> &shape, Matrix &matrix) const {
        const std::string tensor_name = name_ + "." + part;
        const TensorView &view = file_.tensor(tensor_name);
        if (view.dtype != dtype)
            fail(V2E_ERROR_BUNDLE, "%s: tensor '%s' has the dtype %s instead of %s.", file_.path().c_str(),
                 tensor_name.c_str(), view.dtype.c_str(), dtype);
        if (view.shape != shape)
            fail(V2E_ERROR_BUNDLE, "%s: tensor '%s' has another shape than its matrix needs.", file_.path().c_str(),
                 tensor_name.c_str());
        if (reinterpret_cast<uintptr_t>(view.data) % ALIGNMENT != 0)
            fail(V2E_ERROR_BUNDLE, "%s: tensor '%s' is not aligned to %zu bytes.", file_.path().c_str(),
                 tensor_name.c_str(), ALIGNMENT);
        matrix.weight_bytes += view.bytes;
        return view.data;
    }

    void check_keys(const Json &entry) const {
        static const std::set<std::string> known = {"precision", "code", "rows", "columns", "group_size", "symmetric"};
        for (const std::string &key : entry.keys())
            if (known.count(key) == 0)
                refuse(("has the key '" + shown(key) + "', which is unknown to this release").c_str());
    }

    Precision read_precision(const Json &entry) const {
        const std::string &text = entry.at("precision").string();
        if (text == "int4")
            return Precision::int4;
        if (text == "int8")
            return Precision::int8;
        if (text == "fp16")
            return Precision::fp16;
        if (text == "fp32")
            return Precision::fp32;
        refuse("has an unknown precision");
    }

    // Absent means equal steps.
    Code read_code(const Json &entry) const {
        if (!entry.contains("code") || entry.at("code").string() == "uniform")
            return Code::uniform;
        if (entry.at("code").string() != "nf4")
            refuse("has an unknown code");
        return Code::nf4;
    }

    size_t read_side(const Json &entry, const char *key) const {
        const uint64_t side = entry.at(key).unsigned_integer();
        if (side == 0 || side > MAX_SIDE)
            refuse("has an impossible size");
        return static_cast<size_t>(side);
    }

    void read_groups(const Json &entry, Matrix &matrix) const {
        const uint64_t group_size = entry.at("group_size").unsigned_integer();
        if (group_size != 32 && group_size != 64 && group_size != 128)
            refuse("has a group size other than 32, 64 and 128");
        if (matrix.columns % group_size != 0)
            refuse("has columns that its group size does not divide");
        matrix.group_size = static_cast<size_t>(group_size);
        matrix.symmetric = entry.at("symmetric").boolean();
        if (matrix.precision == Precision::int8 && !matrix.symmetric)
            refuse("is int8 but not symmetric");
        matrix.code = read_code(entry);
        if (matrix.code == Code::nf4 && (matrix.precision != Precision::int4 || !matrix.symmetric))
            refuse("is nf4 but not int4 without zero points");
    }

    [[noreturn]] void refuse(const char *reason) const {
        fail(V2E_ERROR_BUNDLE, "%s: matrix '%s' %s.", file_.path().c_str(), name_.c_str(), reason);
    }

  private:
    const SafetensorsFile &file_;
    const std::string &name_;
};

} // namespace

Matrix load_matrix(const SafetensorsFile &file, const std::string &name, const Json &matrices) {
    const Json &entry = matrices.at(name);
    const MatrixReader reader(file, name);
    reader.check_keys(entry);
    Matrix matrix;
    matrix.precision = reader.read_precision(entry);
    matrix.rows = reader.read_side(entry, "rows");
    matrix.columns = reader.read_side(entry, "columns");
    if (matrix.quantized())
        reader.read_groups(entry, matrix);
    const uint64_t panels = matrix.panels(), columns = matrix.columns, groups = matrix.groups();
    switch (matrix.precision) {
    case Precision::int4:
        matrix.weight = reader.read("weight", "U8", {panels, columns / 8, PANEL, 4}, matrix);
        break;
    case Precision::int8:
        matrix.weight = reader.read("weight", "U8", {panels, columns / 4, PANEL, 4}, matrix);
        break;
    case Precision::fp16:
        matrix.weight = reader.read("weight", "F16", {panels, columns, PANEL}, matrix);
        break;
    case Precision::fp32:
        matrix.weight = reader.read("weight", "F32", {panels, columns, PANEL}, matrix);
        break;
    }
    if (matrix.quantized())
        matrix.scales = static_cast<const uint16_t *>(reader.read("scales", "F16", {panels, groups, PANEL}, matrix));
    if (!matrix.symmetric)
        matrix.zeros = static_cast<const uint8_t *>(reader.read("zeros", "U8", {panels, groups, PANEL}, matrix));
    if (file.contains(name + ".bias"))
        matrix.bias = static_cast<const float *>(reader.read("bias", "F32", {matrix.rows}, matrix));
    return matrix;
}

} // namespace v2e
