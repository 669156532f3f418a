// The operating system, as far as the core needs it. Only the files of this folder whose names end with a system have
// system calls.
#pragma once

#include "valley2_parts.h"

#include <cstddef>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

namespace v2e {

struct GuardedMapping;

// A file mapped read-only into memory. Fails with V2E_ERROR_BUNDLE when it cannot be.
class MappedFile {
  public:
    // `stamp`: what the file was when it was checked, and has to be still; null: anything.
    explicit MappedFile(const std::string &utf8_path, const v2e_file_stamp *stamp = nullptr);
    ~MappedFile();
    MappedFile(MappedFile &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
          guard_(std::exchange(other.guard_, nullptr)) {}
    MappedFile &operator=(MappedFile &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(guard_, other.guard_);
        return *this;
    }
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    const std::byte *data() const { return data_; }
    size_t size() const { return size_; } // bytes
    // Lets the system take the pages back; they are read again when they are touched.
    void drop_pages() const noexcept;
    // Whether the file is not any more what it was when it was opened: it has become shorter, was written to, or a part
    // of it could not be read, which is zeros since then. Never on Windows, which keeps a mapped file as it is.
    bool changed() const noexcept;

  private:
    const std::byte *data_ = nullptr;
    size_t size_ = 0;
    GuardedMapping *guard_ = nullptr; // watches over the mapping (mapping_guard_posix.hpp); null on Windows
};

// A library that is opened while the program runs, or is not there.
class SharedLibrary {
  public:
    SharedLibrary() = default;
    // `error` is why it could not be opened. The library stays open until the process ends: drivers do not like to be
    // closed.
    explicit SharedLibrary(const std::string &utf8_name);

    bool open() const { return handle_ != nullptr; }
    const std::string &error() const { return error_; }
    void *symbol(const char *name) const; // null: it has none

  private:
    void *handle_ = nullptr;
    std::string error_;
};

// Where the file of this library lies, UTF-8; empty when the system does not say.
std::string own_directory();

// The value of an environment variable; empty when it is not set.
std::string environment(const char *name);

// Threads that this process may run at once: its CPU affinity and, on Linux, its CPU quota.
unsigned usable_threads();

// Whether an ARM processor has the int8 dot product instructions.
bool has_arm_dot_product();

// The allocator gives back what it keeps of freed memory, where it can.
void return_free_memory() noexcept;

// Throws std::bad_alloc. The alignment is a power of two.
void *allocate_aligned(size_t bytes, size_t alignment);
void free_aligned(void *memory) noexcept;

// An owned array of plain values, aligned to a cache line. The values are not initialised.
template <class T>
class AlignedBuffer {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    static constexpr size_t ALIGNMENT = 64;

    AlignedBuffer() = default;
    explicit AlignedBuffer(size_t size) { reserve(size); }
    ~AlignedBuffer() { free_aligned(data_); }
    AlignedBuffer(AlignedBuffer &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    AlignedBuffer &operator=(AlignedBuffer &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    AlignedBuffer(const AlignedBuffer &) = delete;
    AlignedBuffer &operator=(const AlignedBuffer &) = delete;

    // Reserves memory for at least `size` values. Growing loses the old ones.
    void reserve(size_t size) {
        if (size <= size_)
            return;
        if (size > static_cast<size_t>(-1) / sizeof(T))
            throw std::bad_alloc();
        free_aligned(std::exchange(data_, nullptr));
        size_ = 0;
        data_ = static_cast<T *>(allocate_aligned(size * sizeof(T), ALIGNMENT));
        size_ = size;
    }

    T *data() { return data_; }
    const T *data() const { return data_; }
    size_t size() const { return size_; } // values
    T &operator[](size_t index) { return data_[index]; }
    const T &operator[](size_t index) const { return data_[index]; }

  private:
    T *data_ = nullptr;
    size_t size_ = 0;
};

} // namespace v2e
