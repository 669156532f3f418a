#include "base/error.hpp"
#include "base/new_file.hpp"
#include "base/platform.hpp"
#include "base/platform_internal.hpp"

#include <algorithm>
#include <cstdint>
#include <thread>

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <malloc.h>
#include <windows.h>

namespace v2e {
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

// Compares the stamp with what GetFileInformationByHandle says; Python reads the times by the same rule.
void check_stamp(HANDLE file, const v2e_file_stamp *given, const std::string &path) {
    if (given == nullptr)
        return;
    const v2e_file_stamp stamp = read_options(given);
    constexpr int64_t EPOCH = 116444736000000000; // when the time of Unix begins, in 100 nanoseconds since 1601
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
    // It takes the pages out of the working set, although it reports that they were not locked.
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

} // namespace v2e
