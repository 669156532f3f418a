#include "base/input_file.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

#include <algorithm>

#define WIN32_LEAN_AND_MEAN
#if !defined(NOMINMAX)
#define NOMINMAX
#endif
#include <windows.h>

namespace v2e {
namespace {

std::wstring wide_path(const std::string &utf8_path) {
    const int bytes = static_cast<int>(utf8_path.size());
    const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8_path.data(), bytes, nullptr, 0);
    std::wstring wide(static_cast<size_t>(std::max(length, 0)), L'\0');
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8_path.data(), bytes, wide.data(), length);
    return wide;
}

uint64_t joined(DWORD high, DWORD low) {
    return uint64_t{high} << 32 | low;
}

// Nanoseconds since 1970.
int64_t time_of(const FILETIME &time) {
    constexpr int64_t EPOCH = 116444736000000000; // when the time of Unix begins, in 100 nanoseconds since 1601
    return (static_cast<int64_t>(joined(time.dwHighDateTime, time.dwLowDateTime)) - EPOCH) * 100;
}

} // namespace

InputFile::InputFile(const std::string &utf8_path, Trust)
    : path_(utf8_path), handle_(CreateFileW(wide_path(utf8_path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr,
                                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr)) {
    if (handle_ == INVALID_HANDLE_VALUE)
        refuse(GetLastError() == ERROR_FILE_NOT_FOUND ? "there is no such file" : "Windows does not open it");
    if (GetFileType(handle_) != FILE_TYPE_DISK) {
        CloseHandle(handle_);
        refuse("it is not a file");
    }
}

InputFile::~InputFile() {
    CloseHandle(handle_);
}

v2e_file_stamp InputFile::stamp() const {
    BY_HANDLE_FILE_INFORMATION found;
    if (!GetFileInformationByHandle(handle_, &found))
        refuse("Windows does not measure it");
    v2e_file_stamp stamp{};
    stamp.struct_size = sizeof stamp;
    stamp.size = joined(found.nFileSizeHigh, found.nFileSizeLow);
    stamp.mtime_ns = time_of(found.ftLastWriteTime);
    stamp.ctime_ns = time_of(found.ftCreationTime); // as Python's os.stat has it there
    stamp.inode = joined(found.nFileIndexHigh, found.nFileIndexLow);
    stamp.device = found.dwVolumeSerialNumber;
    return stamp;
}

size_t InputFile::read(void *target, size_t capacity) {
    DWORD got = 0;
    const DWORD wanted = static_cast<DWORD>(std::min<size_t>(capacity, 1 << 30));
    if (!ReadFile(handle_, target, wanted, &got, nullptr))
        refuse("Windows does not read it");
    return got;
}

std::string user_data_directory() {
    const std::string given = environment("VALLEY2_DATA_DIR");
    if (!given.empty())
        return given;
    const std::string local = environment("LOCALAPPDATA");
    return local.empty() ? std::string() : local + "\\valley2_edge";
}

bool make_own_directory(const std::string &utf8_path) noexcept {
    try {
        const std::wstring path = wide_path(utf8_path);
        if (CreateDirectoryW(path.c_str(), nullptr))
            return true;
        const DWORD attributes = GetFileAttributesW(path.c_str());
        return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

} // namespace v2e
