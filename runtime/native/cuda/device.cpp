#include "cuda/device.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

#include <memory>

namespace v2e::cuda {
namespace {

#if !defined(V2E_CUDA_TOOLKIT)
#define V2E_CUDA_TOOLKIT 0
#endif

constexpr int LEAST_CAPABILITY = 75; // tensor cores that take fp16, and __dp4a
// Kernels of a toolkit run on every driver of the same major version and later ones: CUDA Compatibility, "Minor Version
// Compatibility".
constexpr int LEAST_DRIVER = V2E_CUDA_TOOLKIT == 0 ? 12000 : V2E_CUDA_TOOLKIT / 1000 * 1000;
constexpr const char *KERNEL_FILE = "valley2.fatbin";
constexpr const char *KERNELS[] = {
#define V2E_KERNEL_NAME(name) #name,
#include "cuda/kernels/kernel_names.inc"
#undef V2E_KERNEL_NAME
};

std::string kernel_directory() {
    const std::string given = environment("VALLEY2_CUDA_KERNELS");
    return given.empty() ? own_directory() + "/kernels" : given;
}

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

} // namespace

Device *Device::open(std::string &reason) {
    if (V2E_CUDA_TOOLKIT == 0 && environment("VALLEY2_CUDA_KERNELS").empty()) {
        reason = "this build of the library has no GPU kernels";
        return nullptr;
    }
    std::unique_ptr<Device> device(new Device(open_driver()));
    reason = device->driver_.reason;
    if (!reason.empty() || !device->find(reason))
        return nullptr;
    V2E_CUDA(device->driver_, cuDevicePrimaryCtxRetain, &device->context_, device->number_);
    const CurrentContext current(*device);
    device->load_kernels(kernel_directory());
    return device.release();
}

bool Device::find(std::string &reason) {
    if (driver_.version < LEAST_DRIVER) {
        reason = "the NVIDIA driver is too old: it knows CUDA " + version_text(driver_.version) +
                 ", but the kernels need " + version_text(LEAST_DRIVER);
        return false;
    }
    int count = 0;
    V2E_CUDA(driver_, cuDeviceGetCount, &count);
    reason = "the NVIDIA driver finds no GPU";
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        int major = 0, minor = 0;
        char name[256] = {};
        V2E_CUDA(driver_, cuDeviceGet, &number_, ordinal);
        V2E_CUDA(driver_, cuDeviceGetName, name, static_cast<int>(sizeof name), number_);
        V2E_CUDA(driver_, cuDeviceGetAttribute, &major, ATTRIBUTE_MAJOR, number_);
        V2E_CUDA(driver_, cuDeviceGetAttribute, &minor, ATTRIBUTE_MINOR, number_);
        V2E_CUDA(driver_, cuDeviceGetAttribute, &multiprocessors_, ATTRIBUTE_MULTIPROCESSORS, number_);
        name_ = name;
        capability_ = 10 * major + minor;
        if (capability_ >= LEAST_CAPABILITY) {
            reason.clear();
            return true;
        }
        reason = "the GPU " + name_ + " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                 ", but the kernels need 7.5";
    }
    return false;
}

void Device::load_kernels(const std::string &directory) {
    const MappedFile image(directory + "/" + KERNEL_FILE);
    V2E_CUDA(driver_, cuModuleLoadData, &module_, image.data());
    for (const char *kernel : KERNELS) {
        Function function = nullptr;
        if (driver_.cuModuleGetFunction(&function, module_, kernel) != SUCCESS)
            fail(V2E_ERROR_BUNDLE, "The GPU kernels in %s have no %s; install valley2-edge again.", directory.c_str(),
                 kernel);
        functions_[kernel] = function;
    }
}

Device::~Device() {
    if (context_ == nullptr)
        return;
    if (driver_.cuCtxPushCurrent_v2(context_) == SUCCESS) {
        if (module_ != nullptr)
            driver_.cuModuleUnload(module_);
        driver_.cuCtxPopCurrent_v2(&context_);
    }
    driver_.cuDevicePrimaryCtxRelease_v2(number_);
}

size_t Device::free_bytes() const {
    size_t free = 0, total = 0;
    V2E_CUDA(driver_, cuMemGetInfo_v2, &free, &total);
    return free;
}

void Device::launch_raw(const char *kernel, Grid grid, unsigned threads, Stream stream, void *arguments) const {
    const auto found = functions_.find(kernel);
    if (found == functions_.end())
        fail(V2E_ERROR_INTERNAL, "There is no GPU kernel %s.", kernel);
    void *parameters[] = {arguments};
    const Result result =
        driver_.cuLaunchKernel(found->second, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                               static_cast<unsigned>(grid.z), threads, 1, 1, 0, stream, parameters, nullptr);
    check(driver_, result, kernel);
}

uint64_t free_device_bytes(std::string &reason) {
    const std::unique_ptr<Device> device(Device::open(reason));
    if (device == nullptr)
        return 0;
    const CurrentContext current(*device);
    return device->free_bytes();
}

CurrentContext::CurrentContext(const Device &device) : driver_(device.driver()) {
    V2E_CUDA(driver_, cuCtxPushCurrent_v2, device.context());
}

CurrentContext::~CurrentContext() {
    Context before = nullptr;
    driver_.cuCtxPopCurrent_v2(&before);
}

void DeviceMemory::reserve(const Device &device, size_t bytes) {
    if (bytes <= bytes_)
        return;
    release();
    device_ = &device;
    V2E_CUDA(device.driver(), cuMemAlloc_v2, &address_, bytes);
    bytes_ = bytes;
}

void DeviceMemory::fill(const void *source, size_t bytes) {
    V2E_CUDA(device_->driver(), cuMemcpyHtoD_v2, address_, source, bytes);
    // The copy may have got no further than a buffer of the driver, and other queues do not wait for it.
    V2E_CUDA(device_->driver(), cuStreamSynchronize, nullptr);
}

void DeviceMemory::release() noexcept {
    if (bytes_ == 0)
        return;
    const Driver &driver = device_->driver();
    Context before = nullptr;
    if (driver.cuCtxPushCurrent_v2(device_->context()) == SUCCESS) {
        driver.cuMemFree_v2(address_);
        driver.cuCtxPopCurrent_v2(&before);
    }
    address_ = 0;
    bytes_ = 0;
}

void PinnedMemory::reserve(const Device &device, size_t bytes) {
    if (bytes <= bytes_)
        return;
    release();
    device_ = &device;
    V2E_CUDA(device.driver(), cuMemHostAlloc, &memory_, bytes, 0u);
    bytes_ = bytes;
}

void PinnedMemory::release() noexcept {
    if (bytes_ == 0)
        return;
    const Driver &driver = device_->driver();
    Context before = nullptr;
    if (driver.cuCtxPushCurrent_v2(device_->context()) == SUCCESS) {
        driver.cuMemFreeHost(memory_);
        driver.cuCtxPopCurrent_v2(&before);
    }
    memory_ = nullptr;
    bytes_ = 0;
}

Queue::Queue(const Device &device) : device_(device) {
    V2E_CUDA(device.driver(), cuStreamCreate, &stream_, STREAM_NON_BLOCKING);
}

Queue::~Queue() {
    const Driver &driver = device_.driver();
    Context before = nullptr;
    if (driver.cuCtxPushCurrent_v2(device_.context()) == SUCCESS) {
        driver.cuStreamDestroy_v2(stream_);
        driver.cuCtxPopCurrent_v2(&before);
    }
}

void Queue::upload(Address target, const void *source, size_t bytes) const {
    V2E_CUDA(device_.driver(), cuMemcpyHtoDAsync_v2, target, source, bytes, stream_);
}

void Queue::download(void *target, Address source, size_t bytes) const {
    V2E_CUDA(device_.driver(), cuMemcpyDtoHAsync_v2, target, source, bytes, stream_);
}

void Queue::set(Address target, uint8_t value, size_t bytes) const {
    V2E_CUDA(device_.driver(), cuMemsetD8Async, target, value, bytes, stream_);
}

void Queue::wait() const {
    V2E_CUDA(device_.driver(), cuStreamSynchronize, stream_);
}

} // namespace v2e::cuda
