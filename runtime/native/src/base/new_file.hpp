// A file that is written whole or not at all. platform_posix.cpp and platform_windows.cpp implement it.
#pragma once

#include <cstddef>
#include <string>

namespace v2e {

// A file that appears, in place of an older one of its name, when it is complete, and else not at all. Except on
// Windows only its owner may read it. What earlier ones of the same name have left beside it, because their process was
// killed, goes. Fails with V2E_ERROR_INPUT when it cannot be written.
class NewFile {
  public:
    explicit NewFile(const std::string &utf8_path);
    ~NewFile(); // leaves nothing behind that was not committed
    NewFile(const NewFile &) = delete;
    NewFile &operator=(const NewFile &) = delete;

    void write(const void *data, size_t bytes);
    void commit();

  private:
    [[noreturn]] void fail_to(const char *action) const;
    void create();
    void remove_leftovers() const noexcept;

    std::string path_;
    std::string temporary_path_; // beside it
#if defined(_WIN32)
    void *handle_ = nullptr;
#else
    int descriptor_ = -1;
#endif
};

} // namespace v2e
