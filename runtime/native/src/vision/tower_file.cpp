#include "vision/tower_file.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

#include <cmath>

namespace v2e {
namespace {

constexpr size_t ALIGNMENT = 64;

const std::string &metadata_of(const SafetensorsFile &file, const char *key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
        fail(V2E_ERROR_BUNDLE, "%s is not a vision tower: its metadata lacks '%s'.", file.path().c_str(), key);
    return found->second;
}

Json parse_metadata(const SafetensorsFile &file, const char *key) {
    return Json::parse(metadata_of(file, key), file.path() + ": the metadata '" + key + "'");
}

const char *stored_dtype(VisionPrecision precision) {
    return precision == VisionPrecision::int8 ? "U8" : precision == VisionPrecision::bf16 ? "BF16" : "F32";
}

} // namespace

TowerFile::TowerFile(const std::string &utf8_path, const v2e_file_stamp *stamp)
    : file_(utf8_path, stamp), tower_(metadata_of(file_, "tower")), config_(parse_metadata(file_, "config")),
      matrices_(parse_metadata(file_, "matrices")) {
    if (metadata_of(file_, "format") != "valley2-tower")
        fail(V2E_ERROR_BUNDLE, "%s is not a vision tower.", path().c_str());
    if (metadata_of(file_, "format_version") != "1")
        fail(V2E_ERROR_BUNDLE, "%s is a vision tower of another format version; upgrade valley2-edge.", path().c_str());
}

void TowerFile::refuse(const std::string &reason) const {
    fail(V2E_ERROR_BUNDLE, "%s: %s.", path().c_str(), reason.c_str());
}

size_t TowerFile::size(const char *key, size_t most) const {
    const uint64_t value = config_.at(key).unsigned_integer();
    if (value == 0 || value > most)
        refuse(std::string("the size '") + key + "' is out of range");
    return static_cast<size_t>(value);
}

double TowerFile::number(const char *key, double least, double most) const {
    const double value = config_.at(key).number();
    if (!(value >= least && value <= most))
        refuse(std::string("the number '") + key + "' is out of range");
    return value;
}

std::string TowerFile::text(const char *key) const {
    return config_.at(key).string();
}

const void *TowerFile::data(const std::string &name, const char *dtype, const std::vector<uint64_t> &shape) const {
    const TensorView &view = file_.tensor(name);
    if (view.dtype != dtype)
        refuse("tensor '" + name + "' has the dtype " + shown(view.dtype) + " instead of " + dtype);
    if (view.shape != shape)
        refuse("tensor '" + name + "' has another shape than its tower needs");
    if (reinterpret_cast<uintptr_t>(view.data) % ALIGNMENT != 0)
        refuse("tensor '" + name + "' is not aligned to 64 bytes");
    return view.data;
}

VisionPrecision TowerFile::precision_of(const std::string &matrix, const std::string &precision) const {
    if (precision == "int8")
        return VisionPrecision::int8;
    if (precision == "bf16")
        return VisionPrecision::bf16;
    if (precision == "fp32")
        return VisionPrecision::fp32;
    refuse("matrix '" + matrix + "' has an unknown precision");
}

TowerMatrix TowerFile::matrix(const std::string &name, size_t outputs, size_t columns) const {
    if (!matrices_.contains(name))
        refuse("the matrix '" + name + "' is missing");
    const Json &entry = matrices_.at(name);
    for (const std::string &key : entry.keys())
        if (key != "precision" && key != "rows" && key != "columns")
            refuse("matrix '" + name + "' has the key '" + shown(key) + "', which is unknown to this release");
    if (entry.at("rows").unsigned_integer() != outputs || entry.at("columns").unsigned_integer() != columns)
        refuse("matrix '" + name + "' has another size than its tower needs");
    TowerMatrix matrix;
    matrix.precision = precision_of(name, entry.at("precision").string());
    matrix.outputs = outputs;
    matrix.columns = columns;
    VisionPanels &panels = matrix.panels;
    panels.columns = columns;
    const uint64_t count = matrix.panel_count(), padded = matrix.padded_outputs();
    const uint64_t per_word = values_in_word(matrix.precision), words = (columns + per_word - 1) / per_word;
    panels.weight = static_cast<const std::byte *>(
        data(name + ".weight", stored_dtype(matrix.precision), {count, words, VISION_PANEL, per_word}));
    if (matrix.precision == VisionPrecision::int8) {
        panels.scales = static_cast<const float *>(data(name + ".scales", "F32", {padded}));
        panels.sums = static_cast<const int32_t *>(data(name + ".sums", "I32", {padded}));
    }
    if (file_.contains(name + ".bias"))
        panels.bias = static_cast<const float *>(data(name + ".bias", "F32", {padded}));
    return matrix;
}

const float *TowerFile::vectors(const std::string &name, size_t count, size_t size) const {
    std::vector<uint64_t> shape{round_up(size, VISION_PANEL)};
    if (count > 1)
        shape.insert(shape.begin(), count);
    return static_cast<const float *>(data(name, "F32", shape));
}

TowerNorm TowerFile::norm(const std::string &name, size_t size) const {
    return {vectors(name + ".weight", 1, size), vectors(name + ".bias", 1, size)};
}

} // namespace v2e
