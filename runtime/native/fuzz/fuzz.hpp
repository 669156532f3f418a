// What the fuzz targets share: a reader of the input's bytes, checks that end the program, files that the core maps.
#pragma once

#include "base/error.hpp"
#include "valley2_parts.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

// The entry point of libFuzzer and of replay.cpp.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace fuzz {

[[noreturn]] inline void stop(const char *file, int line, const char *what) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
    std::abort();
}

// A property that must hold for every input: where it does not, that is a finding.
#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fuzz::stop(__FILE__, __LINE__, "does not hold: " #condition);                                              \
    } while (false)

// Takes values from the front of the input; behind its end there are zeros.
class Input {
  public:
    Input(const uint8_t *data, size_t size) : rest_(reinterpret_cast<const char *>(data), size) {}

    bool empty() const { return rest_.empty(); }
    std::string_view rest() const { return rest_; }
    uint8_t byte() { return value<uint8_t>(); }

    template <class T>
    T value() {
        T taken{};
        const size_t size = std::min(sizeof taken, rest_.size());
        if (size > 0)
            std::memcpy(&taken, rest_.data(), size);
        rest_.remove_prefix(size);
        return taken;
    }

    // One of the table's entries.
    template <class T, size_t N>
    T pick(const T (&table)[N]) {
        return table[byte() % N];
    }

    // Up to the next newline, which is left out.
    std::string_view line() {
        const size_t end = std::min(rest_.find('\n'), rest_.size());
        const std::string_view taken = rest_.substr(0, end);
        rest_.remove_prefix(std::min(end + 1, rest_.size()));
        return taken;
    }

  private:
    std::string_view rest_;
};

// A status that a caller may see. What the library calls a bug in itself is one.
inline v2e_status seen(v2e_status status) {
    if (status == V2E_ERROR_INTERNAL || status < V2E_OK || status > V2E_ERROR_UNREAD)
        stop(__FILE__, __LINE__, v2e_last_error());
    MUST(status == V2E_OK || v2e_last_error()[0] != '\0');
    return status;
}

// An empty directory for the life of the program.
class ScratchDirectory {
  public:
    ScratchDirectory() {
        std::string name = (std::filesystem::temp_directory_path() / "valley2-fuzz-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr)
            stop(__FILE__, __LINE__, "no temporary directory");
        path_ = name;
    }
    ~ScratchDirectory() {
        std::error_code ignored; // a leftover in the temporary directory is no finding
        std::filesystem::remove_all(path_, ignored);
    }
    ScratchDirectory(const ScratchDirectory &) = delete;
    ScratchDirectory &operator=(const ScratchDirectory &) = delete;

    std::string file(const char *name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

inline void write_file(const std::string &path, std::string_view content) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    if (!file.flush())
        stop(__FILE__, __LINE__, "a temporary file cannot be written");
}

} // namespace fuzz
