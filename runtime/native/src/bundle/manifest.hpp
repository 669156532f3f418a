// A bundle's manifest, as far as the core reads it (docs/bundle.md, "Manifest").
#pragma once

#include "base/json.hpp"
#include "base/saturating.hpp"

#include <string>

namespace v2e {

class Manifest {
  public:
    // directory: UTF-8. Fails with V2E_ERROR_BUNDLE when it holds no manifest of this format version.
    explicit Manifest(const std::string &directory);

    Json architecture() const { return manifest_.at("architecture"); }
    // The path of the native tower of "siglip", "projector" or "eagle".
    std::string tower_path(const char *component) const;
    Saturating file_bytes(const char *path) const;
    Json files() const { return manifest_.at("files"); }     // size and sha256 of each, by its path
    Json decoder() const { return manifest_.at("decoder"); } // how it was made, and for which engine

  private:
    std::string directory_;
    Json manifest_;
};

// A size of the architecture. Fails with V2E_ERROR_BUNDLE when it is out of range.
Saturating size_of(const Json &object, const char *key);

} // namespace v2e
