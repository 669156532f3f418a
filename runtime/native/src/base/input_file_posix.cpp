#include "base/input_file.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"
#include "base/posix.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>

namespace v2e {
namespace {

bool is_own(const struct stat &status) {
    return (status.st_uid == geteuid() || status.st_uid == 0) && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

} // namespace

InputFile::InputFile(const std::string &utf8_path, Trust trust)
    : path_(utf8_path),
      // Without O_NONBLOCK a pipe would be waited for.
      descriptor_(open(utf8_path.c_str(),
                       O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (trust == Trust::own ? O_NOFOLLOW : 0))) {
    if (descriptor_ < 0)
        refuse(std::strerror(errno));
    struct stat status;
    const char *reason = nullptr;
    if (fstat(descriptor_, &status) != 0)
        reason = std::strerror(errno);
    else if (!S_ISREG(status.st_mode))
        reason = "it is not a file";
    else if (trust == Trust::own && !is_own(status))
        reason = "it is not a file of this user's own";
    if (reason != nullptr) {
        close(descriptor_);
        refuse(reason);
    }
}

InputFile::~InputFile() {
    close(descriptor_);
}

v2e_file_stamp InputFile::stamp() const {
    struct stat status;
    if (fstat(descriptor_, &status) != 0)
        refuse(std::strerror(errno));
    const FileTimes times = file_times(status);
    v2e_file_stamp stamp{};
    stamp.struct_size = sizeof stamp;
    stamp.size = static_cast<uint64_t>(status.st_size);
    stamp.mtime_ns = times.modified;
    stamp.ctime_ns = times.changed;
    stamp.inode = static_cast<uint64_t>(status.st_ino);
    stamp.device = static_cast<uint64_t>(status.st_dev);
    return stamp;
}

size_t InputFile::read(void *target, size_t capacity) {
    for (;;) {
        const ssize_t got = ::read(descriptor_, target, capacity);
        if (got >= 0)
            return static_cast<size_t>(got);
        if (errno != EINTR)
            refuse(std::strerror(errno));
    }
}

std::string user_data_directory() {
    const std::string home = environment("HOME");
    std::string given = environment("VALLEY2_DATA_DIR");
    if (!given.empty())
        return given == "~" || given.starts_with("~/") ? home + given.substr(1) : given;
#if defined(__APPLE__)
    return home.empty() ? std::string() : home + "/Library/Application Support/valley2_edge";
#else
    given = environment("XDG_DATA_HOME");
    if (given.find_first_not_of(" \t\n") != std::string::npos)
        return given + "/valley2_edge";
    return home.empty() ? std::string() : home + "/.local/share/valley2_edge";
#endif
}

bool make_own_directory(const std::string &utf8_path) noexcept {
    struct stat status;
    if (stat(utf8_path.c_str(), &status) == 0)
        return S_ISDIR(status.st_mode);
    for (size_t end = utf8_path.find('/', 1); end != std::string::npos; end = utf8_path.find('/', end + 1)) {
        const std::string parent(utf8_path, 0, end);
        if (stat(parent.c_str(), &status) != 0 && mkdir(parent.c_str(), 0777) != 0)
            return false;
    }
    return mkdir(utf8_path.c_str(), 0700) == 0;
}

} // namespace v2e
