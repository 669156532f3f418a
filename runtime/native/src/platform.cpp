#include "platform.hpp"

#include "error.hpp"
#include "new_file.hpp"

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
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
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

MappedFile::MappedFile(const std::string &utf8_path) {
    const OwnedHandle file(CreateFileW(wide_path(utf8_path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr,
                                       OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
    if (!file.valid())
        fail_file("open", utf8_path);
    LARGE_INTEGER size;
    if (!GetFileSizeEx(file.get(), &size))
        fail_file("measure", utf8_path);
    if (size.QuadPart == 0)
        fail(V2E_ERROR_BUNDLE, "The file '%s' is empty.", utf8_path.c_str());
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

NewFile::NewFile(const std::string &utf8_path)
    : path_(utf8_path), temporary_path_(utf8_path + ".part-" + std::to_string(GetCurrentProcessId()) + "-" +
                                        std::to_string(GetTickCount64())) {
    handle_ = CreateFileW(wide_path(temporary_path_).c_str(), GENERIC_WRITE, 0, nullptr, CREATE_NEW,
                          FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle_ == INVALID_HANDLE_VALUE)
        fail_to("create");
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

  private:
    int descriptor_;
};

[[noreturn]] void fail_file(const char *action, const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "Cannot %s '%s': %s.", action, path.c_str(), std::strerror(errno));
}

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

MappedFile::MappedFile(const std::string &utf8_path) {
    const FileDescriptor file(open(utf8_path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0)
        fail_file("open", utf8_path);
    struct stat status;
    if (fstat(file.get(), &status) != 0)
        fail_file("measure", utf8_path);
    if (!S_ISREG(status.st_mode))
        fail(V2E_ERROR_BUNDLE, "'%s' is not a file.", utf8_path.c_str());
    if (status.st_size == 0)
        fail(V2E_ERROR_BUNDLE, "The file '%s' is empty.", utf8_path.c_str());
    const size_t size = static_cast<size_t>(status.st_size);
    void *view = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0); // outlives the descriptor
    if (view == MAP_FAILED)
        fail_file("map", utf8_path);
    data_ = static_cast<const std::byte *>(view);
    size_ = size;
}

MappedFile::~MappedFile() {
    if (data_ != nullptr)
        munmap(const_cast<std::byte *>(data_), size_);
}

void MappedFile::drop_pages() const noexcept {
    if (data_ != nullptr)
        madvise(const_cast<std::byte *>(data_), size_, MADV_DONTNEED);
}

NewFile::NewFile(const std::string &utf8_path) : path_(utf8_path), temporary_path_(utf8_path + ".part-XXXXXX") {
    descriptor_ = mkstemp(temporary_path_.data());
    if (descriptor_ < 0)
        fail_to("create");
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
