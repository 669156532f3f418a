// One GPU: its context, its kernels and its memory.
#pragma once

#include "cuda/driver_api.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

namespace v2e::cuda {

struct Grid {
    size_t x, y = 1, z = 1;
};

// The first GPU that the kernels run on. Its primary context is shared with other libraries of the process; every
// member needs it to be current in the calling thread (CurrentContext).
class Device {
  public:
    // `reason` is set to a part of a sentence, and nothing is returned, when no GPU is usable. Fails when a usable one
    // misbehaves, or when the kernels that are there are damaged.
    static Device *open(std::string &reason);
    ~Device();
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;

    const Driver &driver() const { return driver_; }
    Context context() const { return context_; }
    const std::string &name() const { return name_; }
    int capability() const { return capability_; } // ten times the major number plus the minor one
    int multiprocessors() const { return multiprocessors_; }
    size_t free_bytes() const;

    // Arguments are one struct of cuda/kernels/arguments.hpp.
    template <class Arguments>
    void launch(const char *kernel, Grid grid, unsigned threads, Stream stream, const Arguments &arguments) const {
        launch_raw(kernel, grid, threads, stream, const_cast<void *>(static_cast<const void *>(&arguments)));
    }

  private:
    explicit Device(Driver driver) : driver_(std::move(driver)) {}
    bool find(std::string &reason);
    void load_kernels(const std::string &directory);
    void launch_raw(const char *kernel, Grid grid, unsigned threads, Stream stream, void *arguments) const;

    Driver driver_;
    DeviceNumber number_ = 0;
    Context context_ = nullptr;
    std::string name_;
    int capability_ = 0;
    int multiprocessors_ = 0;
    Module module_ = nullptr;
    std::unordered_map<std::string, Function> functions_;
};

// Free memory of the first usable GPU. Returns 0, and sets `reason` to a part of a sentence, when there is none.
uint64_t free_device_bytes(std::string &reason);

// Makes a device's context current in this thread, and the one before it afterwards.
class CurrentContext {
  public:
    explicit CurrentContext(const Device &device);
    ~CurrentContext();
    CurrentContext(const CurrentContext &) = delete;
    CurrentContext &operator=(const CurrentContext &) = delete;

  private:
    const Driver &driver_;
};

// Memory of the device, not initialised. Freed in whatever context is current: the memory's own is found by its
// address.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    DeviceMemory(const Device &device, size_t bytes) { reserve(device, bytes); }
    ~DeviceMemory() { release(); }
    DeviceMemory(DeviceMemory &&other) noexcept { swap(other); }
    DeviceMemory &operator=(DeviceMemory &&other) noexcept {
        swap(other);
        return *this;
    }
    DeviceMemory(const DeviceMemory &) = delete;
    DeviceMemory &operator=(const DeviceMemory &) = delete;

    // Reserves at least `bytes`. Growing loses what was there. Fails with V2E_ERROR_BUDGET.
    void reserve(const Device &device, size_t bytes);
    // Copies from the host before it returns.
    void fill(const void *source, size_t bytes);

    Address address() const { return address_; }
    size_t bytes() const { return bytes_; }
    template <class T>
    T *as() const {
        return reinterpret_cast<T *>(static_cast<uintptr_t>(address_));
    }

  private:
    void swap(DeviceMemory &other) noexcept {
        std::swap(device_, other.device_);
        std::swap(address_, other.address_);
        std::swap(bytes_, other.bytes_);
    }
    void release() noexcept;

    const Device *device_ = nullptr;
    Address address_ = 0;
    size_t bytes_ = 0;
};

// Memory of the host that the device can copy from and to while the program goes on.
class PinnedMemory {
  public:
    PinnedMemory() = default;
    ~PinnedMemory() { release(); }
    PinnedMemory(const PinnedMemory &) = delete;
    PinnedMemory &operator=(const PinnedMemory &) = delete;

    void reserve(const Device &device, size_t bytes);
    template <class T>
    T *as() const {
        return static_cast<T *>(memory_);
    }

  private:
    void release() noexcept;

    const Device *device_ = nullptr;
    void *memory_ = nullptr;
    size_t bytes_ = 0;
};

// Work for the device, done in order.
class Queue {
  public:
    explicit Queue(const Device &device);
    ~Queue();
    Queue(const Queue &) = delete;
    Queue &operator=(const Queue &) = delete;

    Stream stream() const { return stream_; }
    void upload(Address target, const void *source, size_t bytes) const;
    void download(void *target, Address source, size_t bytes) const;
    void set(Address target, uint8_t value, size_t bytes) const;
    void wait() const;

  private:
    const Device &device_;
    Stream stream_ = nullptr;
};

} // namespace v2e::cuda
