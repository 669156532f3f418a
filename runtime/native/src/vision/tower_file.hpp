// A vision tower's safetensors file: its sizes, matrices and vectors, where they lie in the mapping (docs/bundle.md,
// "Native vision towers").
#pragma once

#include "base/json.hpp"
#include "bundle/safetensors.hpp"
#include "cpu/vision/vision_kernels.hpp"

#include <cstddef>
#include <string>

namespace v2e {

struct TowerMatrix {
    VisionPrecision precision{};
    size_t outputs = 0; // without the panels' padding
    size_t columns = 0;
    VisionPanels panels{};

    size_t panel_count() const { return (outputs + VISION_PANEL - 1) / VISION_PANEL; }
    size_t padded_outputs() const { return panel_count() * VISION_PANEL; }
};

struct TowerNorm {
    const float *weight; // (size padded to 32,)
    const float *bias;
};

// All failures are V2E_ERROR_BUNDLE and name the file.
class TowerFile {
  public:
    // `stamp`: what the file was when it was checked; null: anything.
    explicit TowerFile(const std::string &utf8_path, const v2e_file_stamp *stamp = nullptr);

    const std::string &path() const { return file_.path(); }
    // "siglip", "projector" or "eagle".
    const std::string &tower() const { return tower_; }
    size_t mapped_bytes() const { return file_.mapped_bytes(); }
    void drop_pages() const noexcept { file_.drop_pages(); }
    void require_intact() const { file_.require_intact(); }

    // A size of the architecture, from 1 to `most`.
    size_t size(const char *key, size_t most) const;
    double number(const char *key, double least, double most) const;
    std::string text(const char *key) const;

    TowerMatrix matrix(const std::string &name, size_t outputs, size_t columns) const;
    // `count` rows of floats, each padded to a multiple of 32.
    const float *vectors(const std::string &name, size_t count, size_t size) const;
    TowerNorm norm(const std::string &name, size_t size) const;

    [[noreturn]] void refuse(const std::string &reason) const;

  private:
    VisionPrecision precision_of(const std::string &matrix, const std::string &precision) const;
    const void *data(const std::string &name, const char *dtype, const std::vector<uint64_t> &shape) const;

    SafetensorsFile file_;
    std::string tower_;
    Json config_;
    Json matrices_;
};

} // namespace v2e
