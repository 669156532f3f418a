// Which files were hashed before, so that a bundle of many gigabytes opens at once the second time. The Python package
// reads and writes the same record (valley2_edge/verified_files.py).
#pragma once

#include "valley2_parts.h"

#include <map>
#include <string>

namespace v2e {

class VerifiedFiles {
  public:
    // Reads the record; a missing or broken one, or one that is not the user's own, is an empty memory. An empty path
    // remembers nothing.
    explicit VerifiedFiles(std::string path);

    // The record in the user's data directory; empty when there is no such directory.
    static std::string usual_path();

    // Whether a file had this SHA-256, in hexadecimal digits, when it had this stamp.
    bool knows(const std::string &path, const v2e_file_stamp &stamp, const std::string &sha256) const;
    // Notes what was computed from an open file that had the stamp before and after it was read.
    void remember(const std::string &path, const v2e_file_stamp &stamp, const std::string &sha256);
    // Writes the record, without files that are gone. Only speed is lost where it cannot be written.
    void save() noexcept;

  private:
    struct Entry {
        v2e_file_stamp stamp;
        std::string sha256;
    };

    void read();

    std::string path_;
    std::map<std::string, Entry> entries_; // by the absolute path of the file
    bool changed_ = false;
};

} // namespace v2e
