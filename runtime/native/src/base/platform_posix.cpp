#include "base/posix.hpp"

#include "base/error.hpp"
#include "base/mapping_guard_posix.hpp"
#include "base/new_file.hpp"
#include "base/platform.hpp"
#include "base/platform_internal.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <memory>
#include <sys/file.h>
#include <sys/mman.h>

namespace v2e {
namespace {

[[noreturn]] void fail_file(const char *action, const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "Cannot %s '%s': %s.", action, path.c_str(), std::strerror(errno));
}

constexpr const char *LEFTOVER = ".part-"; // between a file's name and six characters of mkstemp

void check_stamp(const struct stat &found, const v2e_file_stamp *given, const std::string &path) {
    if (given == nullptr)
        return;
    const v2e_file_stamp stamp = read_options(given);
    const FileTimes times = file_times(found);
    if (static_cast<uint64_t>(found.st_size) != stamp.size || times.modified != stamp.mtime_ns ||
        times.changed != stamp.ctime_ns || static_cast<uint64_t>(found.st_ino) != stamp.inode ||
        static_cast<uint64_t>(found.st_dev) != stamp.device)
        fail_changed(path);
}

} // namespace

MappedFile::MappedFile(const std::string &utf8_path, const v2e_file_stamp *stamp) {
    // Without O_NONBLOCK a pipe would be waited for.
    FileDescriptor file(open(utf8_path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (file.get() < 0)
        fail_file("open", utf8_path);
    struct stat status;
    if (fstat(file.get(), &status) != 0)
        fail_file("measure", utf8_path);
    if (!S_ISREG(status.st_mode))
        fail(V2E_ERROR_BUNDLE, "'%s' is not a file.", utf8_path.c_str());
    if (status.st_size == 0)
        fail(V2E_ERROR_BUNDLE, "The file '%s' is empty.", utf8_path.c_str());
    check_stamp(status, stamp, utf8_path);
    const size_t size = static_cast<size_t>(status.st_size);
    void *view = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (view == MAP_FAILED)
        fail_file("map", utf8_path);
    data_ = static_cast<const std::byte *>(view);
    size_ = size;
    try {
        guard_ = guard_mapping(view, file, status);
    } catch (...) {
        munmap(view, size);
        throw;
    }
}

MappedFile::~MappedFile() {
    if (data_ == nullptr)
        return;
    munmap(const_cast<std::byte *>(data_), size_);
    end_guard(*guard_);
}

bool MappedFile::changed() const noexcept {
    return guard_ != nullptr && mapping_changed(*guard_);
}

void MappedFile::drop_pages() const noexcept {
    if (data_ != nullptr)
        madvise(const_cast<std::byte *>(data_), size_, MADV_DONTNEED);
}

NewFile::NewFile(const std::string &utf8_path) : path_(utf8_path) {
    remove_leftovers();
    create();
}

// Locks the file for as long as it is written: that tells other processes that it is no leftover. One of them may come
// between the creation and the lock and delete the file, which then has no name any more.
void NewFile::create() {
    for (;;) {
        temporary_path_ = path_ + LEFTOVER + "XXXXXX";
        descriptor_ = mkstemp(temporary_path_.data());
        if (descriptor_ < 0)
            fail_to("create");
        flock(descriptor_, LOCK_EX | LOCK_NB); // where there are no locks, nothing is taken for a leftover either
        struct stat status;
        if (fstat(descriptor_, &status) != 0 || status.st_nlink > 0)
            return;
        close(std::exchange(descriptor_, -1));
    }
}

// Deletes files of this user that have a name as mkstemp gives it, and that no process is writing to.
void NewFile::remove_leftovers() const noexcept {
    try {
        const size_t end = path_.find_last_of('/');
        const std::string folder = end == std::string::npos ? "." : path_.substr(0, end + 1);
        const std::string begin = path_.substr(end + 1) + LEFTOVER;
        const std::unique_ptr<DIR, int (*)(DIR *)> entries(opendir(folder.c_str()), closedir);
        while (const dirent *entry = entries == nullptr ? nullptr : readdir(entries.get())) {
            const std::string name = entry->d_name;
            if (name.size() != begin.size() + 6 || name.compare(0, begin.size(), begin) != 0)
                continue;
            const int directory = dirfd(entries.get());
            const FileDescriptor file(openat(directory, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
            struct stat status;
            if (file.get() >= 0 && fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode) &&
                status.st_uid == geteuid() && flock(file.get(), LOCK_EX | LOCK_NB) == 0)
                unlinkat(directory, entry->d_name, 0);
        }
    } catch (...) { // they do no harm
    }
}

NewFile::~NewFile() {
    if (descriptor_ < 0)
        return;
    close(descriptor_);
    unlink(temporary_path_.c_str());
}

void NewFile::write(const void *data, size_t bytes) {
    const auto *next = static_cast<const std::byte *>(data);
    while (bytes > 0) {
        const ssize_t written = ::write(descriptor_, next, std::min<size_t>(bytes, 1 << 30));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            fail_to("write");
        next += written;
        bytes -= static_cast<size_t>(written);
    }
}

void NewFile::commit() {
    if (fsync(descriptor_) != 0)
        fail_to("write");
    if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0)
        fail_to("replace");
    close(std::exchange(descriptor_, -1));
}

void NewFile::fail_to(const char *action) const {
    fail(V2E_ERROR_INPUT, "Cannot %s '%s': %s.", action, path_.c_str(), std::strerror(errno));
}

void *allocate_aligned(size_t bytes, size_t alignment) {
    void *memory = nullptr;
    if (posix_memalign(&memory, std::max(alignment, sizeof(void *)), std::max<size_t>(bytes, 1)) != 0)
        throw std::bad_alloc();
    return memory;
}

void free_aligned(void *memory) noexcept {
    std::free(memory);
}

SharedLibrary::SharedLibrary(const std::string &utf8_name) : handle_(dlopen(utf8_name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr)
        error_ = dlerror();
}

void *SharedLibrary::symbol(const char *name) const {
    return dlsym(handle_, name);
}

std::string own_directory() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void *>(&own_directory), &info) == 0 || info.dli_fname == nullptr)
        return {};
    const std::string path = info.dli_fname;
    const size_t end = path.find_last_of('/');
    return end == std::string::npos ? std::string(".") : path.substr(0, end);
}

} // namespace v2e
