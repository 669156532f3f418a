#include "cuda/cuda_probe.hpp"

#include "base/error.hpp"
#include "cuda/kernels/arguments.hpp"

#include <string>

namespace v2e::cuda {
namespace {

constexpr size_t BLOCK_BYTES = size_t{256} << 20; // far more than any cache
constexpr size_t LEAST_BLOCK_BYTES = size_t{1} << 20;
constexpr unsigned THREADS = 256;
constexpr size_t BLOCKS_PER_MULTIPROCESSOR = 8;
constexpr int STEPS = 1 << 12;
constexpr double PRODUCTS_PER_STEP = 8.0 * 16 * 8 * 16; // what a warp of v2e_probe_products does

// Times work on the device by the device's own clock.
class Stopwatch {
  public:
    Stopwatch(const Device &device, const Queue &queue) : driver_(device.driver()), queue_(queue) {
        V2E_CUDA(driver_, cuEventCreate, &begin_, 0u);
        try {
            V2E_CUDA(driver_, cuEventCreate, &end_, 0u);
        } catch (...) {
            driver_.cuEventDestroy_v2(begin_);
            throw;
        }
    }
    ~Stopwatch() {
        driver_.cuEventDestroy_v2(begin_);
        driver_.cuEventDestroy_v2(end_);
    }
    Stopwatch(const Stopwatch &) = delete;
    Stopwatch &operator=(const Stopwatch &) = delete;

    void begin() { V2E_CUDA(driver_, cuEventRecord, begin_, queue_.stream()); }
    double end_seconds() {
        float milliseconds = 0.0f;
        V2E_CUDA(driver_, cuEventRecord, end_, queue_.stream());
        V2E_CUDA(driver_, cuEventSynchronize, end_);
        V2E_CUDA(driver_, cuEventElapsedTime, &milliseconds, begin_, end_);
        return static_cast<double>(milliseconds) / 1e3;
    }

  private:
    const Driver &driver_;
    const Queue &queue_;
    Event begin_ = nullptr, end_ = nullptr;
};

} // namespace

CudaProbe::CudaProbe() {
    std::string reason;
    device_.reset(Device::open(reason));
    if (device_ == nullptr)
        fail(V2E_ERROR_INPUT, "There is no GPU to measure: %s.", reason.c_str());
    const CurrentContext current(*device_);
    queue_ = std::make_unique<Queue>(*device_);
    size_t bytes = BLOCK_BYTES;
    while (bytes > LEAST_BLOCK_BYTES && 4 * bytes > device_->free_bytes())
        bytes /= 2;
    source_.reserve(*device_, bytes);
    target_.reserve(*device_, bytes);
    queue_->set(source_.address(), 1, bytes);
}

// The first launch wakes the device up, the second one is timed.
template <class Launch>
double CudaProbe::seconds(Launch &&launch) {
    launch();
    Stopwatch watch(*device_, *queue_);
    watch.begin();
    launch();
    return watch.end_seconds();
}

double CudaProbe::bandwidth() {
    const CurrentContext current(*device_);
    ProbeArguments arguments{source_.as<uint8_t>(), target_.as<uint8_t>(), source_.bytes(), 0};
    const Grid grid{BLOCKS_PER_MULTIPROCESSOR * static_cast<size_t>(device_->multiprocessors())};
    const double time = seconds([&] { device_->launch("v2e_probe_copy", grid, THREADS, queue_->stream(), arguments); });
    return 2.0 * static_cast<double>(source_.bytes()) / time;
}

double CudaProbe::fp16_peak() {
    const CurrentContext current(*device_);
    const ProbeArguments arguments{nullptr, target_.as<uint8_t>(), 0, STEPS};
    const Grid grid{2 * static_cast<size_t>(device_->multiprocessors())};
    const double time =
        seconds([&] { device_->launch("v2e_probe_products", grid, THREADS, queue_->stream(), arguments); });
    const double warps = static_cast<double>(grid.x) * THREADS / 32;
    return 2.0 * warps * STEPS * PRODUCTS_PER_STEP / time;
}

} // namespace v2e::cuda
