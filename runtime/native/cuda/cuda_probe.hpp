// What a GPU can do at most at this moment: the limits of which a measurement's figures are shares.
#pragma once

#include "cuda/device.hpp"

#include <memory>

namespace v2e::cuda {

// Each method takes some milliseconds of the device's time.
class CudaProbe {
  public:
    // Fails with V2E_ERROR_INPUT when no GPU is usable.
    CudaProbe();

    // Copying memory: bytes read and written a second.
    double bandwidth();
    // fp16 products with sums in fp32 on the tensor cores: operations a second, an addition and its multiplication
    // being two.
    double fp16_peak();

  private:
    template <class Launch>
    double seconds(Launch &&launch);

    std::unique_ptr<Device> device_;
    std::unique_ptr<Queue> queue_;
    DeviceMemory source_, target_;
};

} // namespace v2e::cuda
