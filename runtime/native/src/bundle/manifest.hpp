// The manifest of a bundle, valley2.json (docs/bundle.md).
#pragma once

#include "base/json.hpp"

#include <string>

namespace v2e {

// All failures are V2E_ERROR_BUNDLE and name the file.
class Manifest {
  public:
    // Refuses another format, and a version that this release does not read.
    explicit Manifest(const std::string &bundle_directory);

    const std::string &directory() const { return directory_; }
    Json at(const char *key) const { return content_.at(key); }
    Json architecture() const { return content_.at("architecture"); }

  private:
    std::string directory_;
    Json content_;
};

} // namespace v2e
