#include "base/platform.hpp"

#include "base/error.hpp"
#include "base/new_file.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <malloc.h>
#include <windows.h>
#else
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <string_view>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sched.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace v2e {

std::string environment(const char *name) {
    const char *value = std::getenv(name);
    return value == nullptr ? std::string() : value;
}

namespace {

[[noreturn]] void fail_changed(const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "The file '%s' was changed after it had been checked; check the bundle again.",
         path.c_str());
}

} // namespace

#if defined(_WIN32)

namespace {

std::wstring wide_path(const std::string &utf8_path) {
    const int bytes = static_cast<int>(utf8_path.size());
    const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8_path.data(), bytes, nullptr, 0);
    if (length <= 0)
        fail(V2E_ERROR_BUNDLE, "The path '%s' is not valid UTF-8.", utf8_path.c_str());
    std::wstring wide(static_cast<size_t>(length), L'\0');
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8_path.data(), bytes, wide.data(), length);
    return wide;
}

class OwnedHandle {
  public:
    explicit OwnedHandle(HANDLE handle) : handle_(handle) {}
    ~OwnedHandle() {
        if (valid())
            CloseHandle(handle_);
    }
    OwnedHandle(const OwnedHandle &) = delete;
    OwnedHandle &operator=(const OwnedHandle &) = delete;
    bool valid() const { return handle_ != nullptr && handle_ != INVALID_HANDLE_VALUE; }
    HANDLE get() const { return handle_; }

  private:
    HANDLE handle_;
};

[[noreturn]] void fail_file(const char *action, const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "Cannot %s '%s': Windows error %lu.", action, path.c_str(), GetLastError());
}

} // namespace

namespace {

// What GetFileInformationByHandle says of the file; its times are read by the same rule as Python reads them.
void check_stamp(HANDLE file, const v2e_file_stamp *given, const std::string &path) {
    if (given == nullptr)
        return;
    const v2e_file_stamp stamp = read_options(given);
    constexpr int64_t EPOCH = 116444736000000000; // of Unix, in 100 nanoseconds since 1601
    BY_HANDLE_FILE_INFORMATION found;
    if (!GetFileInformationByHandle(file, &found))
        fail_file("measure", path);
    const auto joined = [](DWORD high, DWORD low) { return uint64_t{high} << 32 | low; };
    const auto written =
        static_cast<int64_t>(joined(found.ftLastWriteTime.dwHighDateTime, found.ftLastWriteTime.dwLowDateTime));
    if (joined(found.nFileSizeHigh, found.nFileSizeLow) != stamp.size || (written - EPOCH) * 100 != stamp.mtime_ns)
        fail_changed(path);
}

} // namespace

MappedFile::MappedFile(const std::string &utf8_path, const v2e_file_stamp *stamp) {
    const OwnedHandle file(CreateFileW(wide_path(utf8_path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr,
                                       OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
    if (!file.valid())
        fail_file("open", utf8_path);
    LARGE_INTEGER size;
    if (!GetFileSizeEx(file.get(), &size))
        fail_file("measure", utf8_path);
    if (size.QuadPart == 0)
        fail(V2E_ERROR_BUNDLE, "The file '%s' is empty.", utf8_path.c_str());
    check_stamp(file.get(), stamp, utf8_path);
    const OwnedHandle mapping(CreateFileMappingW(file.get(), nullptr, PAGE_READONLY, 0, 0, nullptr));
    if (!mapping.valid())
        fail_file("map", utf8_path);
    const void *view = MapViewOfFile(mapping.get(), FILE_MAP_READ, 0, 0, 0); // outlives both handles
    if (view == nullptr)
        fail_file("map", utf8_path);
    data_ = static_cast<const std::byte *>(view);
    size_ = static_cast<size_t>(size.QuadPart);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr)
        UnmapViewOfFile(data_);
}

void MappedFile::drop_pages() const noexcept {
    // Of pages that are not locked it only takes them out of the working set, and says that they were not locked.
    if (data_ != nullptr)
        VirtualUnlock(const_cast<std::byte *>(data_), size_);
}

bool MappedFile::changed() const noexcept {
    return false;
}

NewFile::NewFile(const std::string &utf8_path)
    : path_(utf8_path), temporary_path_(utf8_path + ".part-" + std::to_string(GetCurrentProcessId()) + "-" +
                                        std::to_string(GetTickCount64())) {
    remove_leftovers();
    create();
}

void NewFile::create() {
    handle_ = CreateFileW(wide_path(temporary_path_).c_str(), GENERIC_WRITE, 0, nullptr, CREATE_NEW,
                          FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle_ == INVALID_HANDLE_VALUE)
        fail_to("create");
}

// One that a living process writes is open without sharing, and stays.
void NewFile::remove_leftovers() const noexcept {
    try {
        const std::wstring path = wide_path(path_);
        const std::wstring folder = path.substr(0, path.find_last_of(L"\\/") + 1); // empty without one
        WIN32_FIND_DATAW found;
        const HANDLE search = FindFirstFileW((path + L".part-*").c_str(), &found);
        if (search == INVALID_HANDLE_VALUE)
            return;
        do
            DeleteFileW((folder + found.cFileName).c_str());
        while (FindNextFileW(search, &found));
        FindClose(search);
    } catch (...) { // they do no harm
    }
}

NewFile::~NewFile() {
    if (handle_ == INVALID_HANDLE_VALUE)
        return;
    CloseHandle(handle_);
    DeleteFileW(wide_path(temporary_path_).c_str());
}

void NewFile::write(const void *data, size_t bytes) {
    const auto *next = static_cast<const std::byte *>(data);
    while (bytes > 0) {
        DWORD written = 0;
        if (!WriteFile(handle_, next, static_cast<DWORD>(std::min<size_t>(bytes, 1 << 30)), &written, nullptr))
            fail_to("write");
        next += written;
        bytes -= written;
    }
}

void NewFile::commit() {
    if (!FlushFileBuffers(handle_))
        fail_to("write");
    CloseHandle(std::exchange(handle_, INVALID_HANDLE_VALUE));
    if (MoveFileExW(wide_path(temporary_path_).c_str(), wide_path(path_).c_str(),
                    MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        return;
    const DWORD error = GetLastError();
    DeleteFileW(wide_path(temporary_path_).c_str());
    SetLastError(error);
    fail_to("replace");
}

void NewFile::fail_to(const char *action) const {
    fail(V2E_ERROR_INPUT, "Cannot %s '%s': Windows error %lu.", action, path_.c_str(), GetLastError());
}

void return_free_memory() noexcept {}

void *allocate_aligned(size_t bytes, size_t alignment) {
    void *memory = _aligned_malloc(std::max<size_t>(bytes, 1), alignment);
    if (memory == nullptr)
        throw std::bad_alloc();
    return memory;
}

void free_aligned(void *memory) noexcept {
    _aligned_free(memory);
}

SharedLibrary::SharedLibrary(const std::string &utf8_name)
    : handle_(LoadLibraryExW(wide_path(utf8_name).c_str(), nullptr, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS)) {
    if (handle_ == nullptr)
        error_ = utf8_name + ": Windows error " + std::to_string(GetLastError());
}

void *SharedLibrary::symbol(const char *name) const {
    return reinterpret_cast<void *>(GetProcAddress(static_cast<HMODULE>(handle_), name));
}

std::string own_directory() {
    HMODULE module = nullptr;
    const auto here = reinterpret_cast<LPCWSTR>(&own_directory);
    if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, here,
                            &module))
        return {};
    std::wstring wide(1 << 15, L'\0');
    wide.resize(GetModuleFileNameW(module, wide.data(), static_cast<DWORD>(wide.size())));
    const int bytes =
        WideCharToMultiByte(CP_UTF8, 0, wide.data(), static_cast<int>(wide.size()), nullptr, 0, nullptr, nullptr);
    std::string path(static_cast<size_t>(bytes), '\0');
    WideCharToMultiByte(CP_UTF8, 0, wide.data(), static_cast<int>(wide.size()), path.data(), bytes, nullptr, nullptr);
    const size_t end = path.find_last_of("\\/");
    return end == std::string::npos ? std::string() : path.substr(0, end);
}

unsigned usable_threads() {
    DWORD_PTR process = 0, system = 0;
    unsigned count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process != 0; process &= process - 1)
            ++count;
    return count > 0 ? count : std::max(1u, std::thread::hardware_concurrency());
}

bool has_arm_dot_product() {
#if defined(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE)
    return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) != 0;
#else
    return false;
#endif
}

#else

namespace {

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

[[noreturn]] void fail_file(const char *action, const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "Cannot %s '%s': %s.", action, path.c_str(), std::strerror(errno));
}

constexpr const char *LEFTOVER = ".part-"; // between a file's name and six characters of mkstemp

#if defined(__linux__)
// Processors that the control group may use, rounded up; 0 when it has no quota.
unsigned quota_processors() {
    std::FILE *file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file == nullptr)
        return 0;
    unsigned long long quota = 0, period = 0; // microseconds; a quota of "max" is not read as a number
    const int fields = std::fscanf(file, "%llu %llu", &quota, &period);
    std::fclose(file);
    return fields == 2 && period > 0 ? static_cast<unsigned>((quota + period - 1) / period) : 0;
}
#endif

} // namespace

// Touching a mapped page that its file no longer has is a SIGBUS, which would end the process. As long as files are
// mapped, a handler puts zeros in the place of what was lost and notes it, so that the call that is running ends with a
// sentence. Signals that are not about these files go to the handler that was there before.
struct GuardedMapping {
    std::atomic<uintptr_t> begin{0}, end{0}; // of whole pages; 0: it is free to be used again
    std::atomic<bool> lost{false};
    int descriptor = -1;
    off_t size = 0;
    int64_t modified = 0;           // nanoseconds
    GuardedMapping *next = nullptr; // they are never freed: a handler may be reading them
};

namespace {

std::atomic<GuardedMapping *> guarded_mappings{nullptr};
std::mutex guard_mutex; // of what follows; the handler does not take it
size_t guarded_count = 0;
bool handler_installed = false;
struct sigaction handler_before; // written before the handler is there
uintptr_t page_bytes = 0;        // likewise

bool replace_lost_pages(uintptr_t address) {
    for (GuardedMapping *mapping = guarded_mappings.load(); mapping != nullptr; mapping = mapping->next) {
        const uintptr_t begin = mapping->begin.load(), end = mapping->end.load();
        if (begin == 0 || address < begin || address >= end)
            continue;
        const uintptr_t first = address - address % page_bytes;
        // What lies behind is lost as well, or will be put back by nobody: one signal is enough for all of it.
        if (mmap(reinterpret_cast<void *>(first), end - first, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            return false;
        mapping->lost.store(true);
        return true;
    }
    return false;
}

#if defined(__linux__)
// The end of a process whose other libraries have mapped a file that became shorter: its last words name the file. Only
// what is allowed in a handler is used.
class LastWords {
  public:
    explicit LastWords(uintptr_t address) : address_(address) {}

    void write() {
        const FileDescriptor maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        char chunk[512];
        for (ssize_t count; (count = read(maps.get(), chunk, sizeof chunk)) > 0;)
            for (ssize_t i = 0; i < count; ++i)
                take(chunk[i]);
    }

  private:
    void take(char byte) {
        if (byte != '\n') {
            if (size_ < sizeof line_)
                line_[size_++] = byte;
            return;
        }
        const std::string_view line(line_, size_);
        size_ = 0;
        const size_t dash = line.find('-'), path = line.find('/');
        if (dash == line.npos || path == line.npos || dash > path)
            return;
        if (address_ < number(line) || address_ >= number(line.substr(dash + 1)))
            return;
        say("valley2-edge: the file '");
        say(line.substr(path));
        say("' became shorter while it was in use, and the process cannot go on.\n");
    }

    static uintptr_t number(std::string_view text) {
        uintptr_t value = 0;
        for (const char digit : text) {
            if (digit >= '0' && digit <= '9')
                value = value * 16 + static_cast<uintptr_t>(digit - '0');
            else if (digit >= 'a' && digit <= 'f')
                value = value * 16 + static_cast<uintptr_t>(digit - 'a' + 10);
            else
                break;
        }
        return value;
    }

    static void say(std::string_view text) {
        [[maybe_unused]] const ssize_t said = ::write(2, text.data(), text.size());
    }

    uintptr_t address_;
    char line_[4608]; // of the longest path, and what stands before it
    size_t size_ = 0;
};
#endif

void pass_on_bus_error(int signal, siginfo_t *info, void *context) {
    if ((handler_before.sa_flags & SA_SIGINFO) != 0) {
        handler_before.sa_sigaction(signal, info, context);
    } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
        handler_before.sa_handler(signal);
    } else if (handler_before.sa_handler == SIG_DFL || info->si_code > 0) {
        // A fault cannot be ignored: it comes again when this returns, and then ends the process.
#if defined(__linux__)
        if (info->si_code > 0)
            LastWords(reinterpret_cast<uintptr_t>(info->si_addr)).write();
#endif
        std::signal(signal, SIG_DFL);
        if (info->si_code <= 0)
            raise(signal);
    }
}

void on_bus_error(int signal, siginfo_t *info, void *context) {
    const int error = errno;
    const bool fault = info->si_code > 0; // else somebody has sent it, and there is no address
    if (!fault || !replace_lost_pages(reinterpret_cast<uintptr_t>(info->si_addr)))
        pass_on_bus_error(signal, info, context);
    errno = error;
}

void install_handler() {
    if (handler_installed)
        return;
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action{};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, nullptr, &handler_before);
    handler_installed = sigaction(SIGBUS, &action, nullptr) == 0;
}

// Unless somebody has put another one in its place, which may go on calling this one: then it stays for good.
void remove_handler() {
    struct sigaction found;
    if (sigaction(SIGBUS, nullptr, &found) == 0 && (found.sa_flags & SA_SIGINFO) != 0 &&
        found.sa_sigaction == on_bus_error)
        handler_installed = sigaction(SIGBUS, &handler_before, nullptr) != 0;
}

int64_t nanoseconds(const timespec &time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

int64_t modified_of(const struct stat &status) {
#if defined(__APPLE__)
    return nanoseconds(status.st_mtimespec);
#else
    return nanoseconds(status.st_mtim);
#endif
}

// Guards the mapping of a file. Its open descriptor is the guard's from now on. Throws std::bad_alloc.
GuardedMapping *guard_mapping(const void *data, FileDescriptor &file, const struct stat &status) {
    const std::lock_guard lock(guard_mutex);
    GuardedMapping *mapping = guarded_mappings.load();
    while (mapping != nullptr && mapping->begin.load() != 0)
        mapping = mapping->next;
    if (mapping == nullptr) {
        mapping = new GuardedMapping;
        mapping->next = guarded_mappings.load();
        guarded_mappings.store(mapping);
    }
    if (guarded_count++ == 0)
        install_handler();
    const auto begin = reinterpret_cast<uintptr_t>(data);
    mapping->lost.store(false);
    mapping->descriptor = file.release();
    mapping->size = status.st_size;
    mapping->modified = modified_of(status);
    mapping->end.store(begin + (static_cast<size_t>(status.st_size) + page_bytes - 1) / page_bytes * page_bytes);
    mapping->begin.store(begin);
    return mapping;
}

void end_guard(GuardedMapping &mapping) noexcept {
    const std::lock_guard lock(guard_mutex);
    close(mapping.descriptor);
    mapping.begin.store(0);
    if (--guarded_count == 0)
        remove_handler();
}

void check_stamp(const struct stat &found, const v2e_file_stamp *given, const std::string &path) {
    if (given == nullptr)
        return;
    const v2e_file_stamp stamp = read_options(given);
#if defined(__APPLE__)
    const timespec changed = found.st_ctimespec;
#else
    const timespec changed = found.st_ctim;
#endif
    if (static_cast<uint64_t>(found.st_size) != stamp.size || modified_of(found) != stamp.mtime_ns ||
        nanoseconds(changed) != stamp.ctime_ns || static_cast<uint64_t>(found.st_ino) != stamp.inode ||
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
    if (guard_ == nullptr)
        return false;
    struct stat status;
    return guard_->lost.load(std::memory_order_relaxed) || fstat(guard_->descriptor, &status) != 0 ||
           status.st_size != guard_->size || modified_of(status) != guard_->modified;
}

void MappedFile::drop_pages() const noexcept {
    if (data_ != nullptr)
        madvise(const_cast<std::byte *>(data_), size_, MADV_DONTNEED);
}

NewFile::NewFile(const std::string &utf8_path) : path_(utf8_path) {
    remove_leftovers();
    create();
}

// Holds the file's lock from its beginning to its end: that tells others that it is no leftover. One of them may come
// between the two steps, and then the file has no name any more.
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

// Files of this user by a name that mkstemp gives, which nobody writes to.
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

void return_free_memory() noexcept {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
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

unsigned usable_threads() {
    unsigned count = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        count = static_cast<unsigned>(CPU_COUNT(&set));
    const unsigned quota = quota_processors();
    if (quota > 0)
        count = std::min(count, quota);
#endif
    return count;
}

bool has_arm_dot_product() {
#if defined(__linux__) && defined(__aarch64__)
    constexpr unsigned long ASIMD_DOT_PRODUCT = 1ul << 20; // HWCAP_ASIMDDP of the kernel's ABI
    return (getauxval(AT_HWCAP) & ASIMD_DOT_PRODUCT) != 0;
#elif defined(__APPLE__) && defined(__aarch64__)
    int present = 0;
    size_t size = sizeof present;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#else
    return false;
#endif
}

#endif

} // namespace v2e
