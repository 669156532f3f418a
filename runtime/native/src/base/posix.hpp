// What Linux and macOS have in common beyond platform.hpp, and what platform_posix.cpp asks of either.
#pragma once

#include <cstdint>
#include <ctime>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace v2e {

class FileDescriptor {
  public:
    explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
    ~FileDescriptor() {
        if (descriptor_ >= 0)
            close(descriptor_);
    }
    FileDescriptor(const FileDescriptor &) = delete;
    FileDescriptor &operator=(const FileDescriptor &) = delete;
    int get() const { return descriptor_; }
    int release() { return std::exchange(descriptor_, -1); }

  private:
    int descriptor_;
};

inline int64_t nanoseconds(const timespec &time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Nanoseconds since 1970.
struct FileTimes {
    int64_t modified; // the contents
    int64_t changed;  // the contents or what the system knows of the file
};

// platform_linux.cpp and platform_macos.cpp have the functions that follow.

FileTimes file_times(const struct stat &status);
// Writes to standard error which file an address was mapped from, for a process that is about to end because another
// library mapped a file that became shorter. Does nothing where the system does not say which file it was. Calls only
// what a signal handler may call.
void report_lost_page(uintptr_t address);

} // namespace v2e
