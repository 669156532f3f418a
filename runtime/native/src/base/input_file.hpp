// A file that is read from its beginning to its end. input_file_posix.cpp and input_file_windows.cpp implement it.
#pragma once

#include "valley2_parts.h"

#include <cstddef>
#include <string>

namespace v2e {

class InputFile {
  public:
    enum class Trust {
        anybody, // links are followed
        own      // a file that this user or the administrator owns and nobody else may write; no link
    };

    // Fails with V2E_ERROR_BUNDLE when there is no such file, it cannot be read, or it is no regular file.
    explicit InputFile(const std::string &utf8_path, Trust trust = Trust::anybody);
    ~InputFile();
    InputFile(const InputFile &) = delete;
    InputFile &operator=(const InputFile &) = delete;

    // What the file is at this moment.
    v2e_file_stamp stamp() const;
    // The next bytes, `capacity` at most; 0 at the end.
    size_t read(void *target, size_t capacity);
    // All of it. Fails with V2E_ERROR_BUNDLE when there are more than `most` bytes, or the file changes meanwhile.
    std::string read_all(size_t most);

  private:
    [[noreturn]] void refuse(const char *reason) const;

    std::string path_;
#if defined(_WIN32)
    void *handle_;
#else
    int descriptor_;
#endif
};

bool same_stamp(const v2e_file_stamp &one, const v2e_file_stamp &other);

// The user's directory for an application's data: $VALLEY2_DATA_DIR, or the system's place for it, as the Python
// package finds it. Empty when there is none.
std::string user_data_directory();
// Makes the directory for the user alone, where it is missing. Returns whether it is there and the user's own.
bool make_own_directory(const std::string &utf8_path) noexcept;

} // namespace v2e
