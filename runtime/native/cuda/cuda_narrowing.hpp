// The first candidates of a sampler, found on the device: they alone come to the host.
#pragma once

#include "cuda/device.hpp"
#include "decoder/narrowing.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e::cuda {

// Belongs to one queue.
class CudaNarrowing {
  public:
    void reserve(const Device &device, size_t vocabulary);
    // candidates (narrowing.count,) of logits (vocabulary,) on the device, all finite. `narrowing` counts at least one
    // and no more than the vocabulary and Narrowing::MOST.
    void run(const Device &device, const Queue &queue, const float *logits, size_t vocabulary,
             const Narrowing &narrowing, Candidate *candidates);

  private:
    void update_seen(const Queue &queue, const std::vector<uint32_t> &seen);

    DeviceMemory state_;              // NarrowState
    DeviceMemory seen_;               // uint32 (vocabulary / 32, rounded up)
    std::vector<uint32_t> host_seen_; // what seen_ holds; empty: nothing yet
};

} // namespace v2e::cuda
