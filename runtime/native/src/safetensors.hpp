// A reader of the safetensors format over a mapped file. Every rule of the format is checked on opening.
#pragma once

#include "platform.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace v2e {

struct TensorView {
    std::string dtype; // "F32", "F16", "BF16", "U8", ...
    std::vector<uint64_t> shape;
    const std::byte *data; // in the mapping
    size_t bytes;
};

// All failures are V2E_ERROR_BUNDLE and name the file.
class SafetensorsFile {
  public:
    explicit SafetensorsFile(const std::string &utf8_path);

    const TensorView &tensor(const std::string &name) const;
    bool contains(const std::string &name) const;
    const std::map<std::string, TensorView> &tensors() const { return tensors_; }
    const std::map<std::string, std::string> &metadata() const { return metadata_; }
    const std::string &path() const { return path_; }
    size_t mapped_bytes() const { return file_.size(); }
    void drop_pages() const noexcept { file_.drop_pages(); }

  private:
    std::string path_;
    MappedFile file_;
    std::map<std::string, TensorView> tensors_;
    std::map<std::string, std::string> metadata_;
};

} // namespace v2e
