// The keys and values of a session's positions in the memory of a GPU.
#pragma once

#include "cpu/attention/attention.hpp"
#include "cuda/device.hpp"
#include "cuda/kernels/arguments.hpp"
#include "decoder/decoder.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e::cuda {

// Grows and shrinks by pages, which never move: see CacheArguments for what a page holds. The table of their addresses
// is on the device and does not move either, so that recorded work stays valid.
class CudaCache {
  public:
    CudaCache(const Device &device, const DecoderConfig &config, size_t layers, KvPrecision precision,
              size_t context_length);

    // Reserves memory for `positions`. Fails with V2E_ERROR_BUDGET.
    void reserve(size_t positions);
    // Returns whether there was anything to free.
    bool trim(size_t positions);
    uint64_t bytes() const { return pages_.size() * page_bytes_; }
    uint64_t bytes_of(size_t positions) const { return (positions + KV_PAGE - 1) / KV_PAGE * page_bytes_; }
    KvPrecision precision() const { return precision_; }

    // `position` is on the device: that of row 0.
    CacheArguments layer(size_t layer, const int *position) const;

  private:
    const Device &device_;
    KvPrecision precision_;
    uint64_t layer_bytes_;
    uint64_t head_bytes_;
    uint64_t page_bytes_;
    std::vector<DeviceMemory> pages_;
    DeviceMemory table_;
};

} // namespace v2e::cuda
