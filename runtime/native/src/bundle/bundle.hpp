// A bundle on disk whose files were all found as its manifest says, before anything is mapped (docs/bundle.md).
#pragma once

#include "base/stop_flag.hpp"
#include "bundle/manifest.hpp"
#include "valley2_parts.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace v2e {

// Told the bytes that are checked and those in all; false stops.
using CheckProgress = std::function<bool(uint64_t done, uint64_t total)>;

class Bundle {
  public:
    // directory, record: UTF-8; the record is where VerifiedFiles remembers. Fails with V2E_ERROR_BUNDLE when the
    // directory is no bundle, is of another version, or a file is missing, damaged or outside; with
    // V2E_ERROR_CANCELLED.
    Bundle(const std::string &directory, v2e_check check, const std::string &record, const CheckProgress &progress);

    const std::string &directory() const { return directory_; } // absolute, without links
    const Manifest &manifest() const { return manifest_; }
    bool has(const std::string &name) const { return stamps_.contains(name); }
    // The absolute path of a file that the manifest lists. Fails with V2E_ERROR_BUNDLE.
    std::string path(const std::string &name) const;
    // What the file was when it was checked.
    const v2e_file_stamp &stamp(const std::string &name) const;
    // The content of a file, if it is still the one that was checked.
    std::string read(const std::string &name, size_t most) const;

  private:
    struct File {
        uint64_t size;
        std::string sha256;
    };

    void read_files();
    void check_presence(const std::string &name, const File &file);
    void check_unlisted() const;
    void check_digests(bool all, const std::string &record, const CheckProgress &progress);

    std::string directory_;
    Manifest manifest_;
    std::map<std::string, File> files_; // by their paths in the bundle
    std::map<std::string, v2e_file_stamp> stamps_;
};

} // namespace v2e
