// A reader of the safetensors format over a mapped file. Every rule of the format is checked on opening.
#pragma once

#include "base/platform.hpp"

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
    // What one of this project's files needs for its header is far below the format's own limit of 100 MB.
    static constexpr size_t MOST_HEADER_BYTES = size_t{16} << 20;

    // `stamp`: what the file was when it was checked; null: anything.
    explicit SafetensorsFile(const std::string &utf8_path, const v2e_file_stamp *stamp = nullptr,
                             size_t most_header_bytes = MOST_HEADER_BYTES);

    const TensorView &tensor(const std::string &name) const;
    bool contains(const std::string &name) const;
    const std::map<std::string, TensorView> &tensors() const { return tensors_; }
    const std::map<std::string, std::string> &metadata() const { return metadata_; }
    const std::string &path() const { return path_; }
    size_t mapped_bytes() const { return file_.size(); }
    void drop_pages() const noexcept { file_.drop_pages(); }
    // Fails when the file is not any more what it was when it was opened.
    void require_intact(v2e_status status = V2E_ERROR_BUNDLE) const;

  private:
    std::string path_;
    MappedFile file_;
    std::map<std::string, TensorView> tensors_;
    std::map<std::string, std::string> metadata_;
};

} // namespace v2e
