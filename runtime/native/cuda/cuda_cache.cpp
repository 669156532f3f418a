#include "cuda/cuda_cache.hpp"

#include "cuda/device_plan.hpp"

namespace v2e::cuda {

CudaCache::CudaCache(const Device &device, const DecoderConfig &config, size_t layers, KvPrecision precision,
                     size_t context_length)
    : device_(device), precision_(precision), layer_bytes_(page_layer_bytes(config, precision)),
      head_bytes_(layer_bytes_ / config.kv_heads), page_bytes_(layers * layer_bytes_),
      table_(device, (context_length + KV_PAGE - 1) / KV_PAGE * sizeof(Address)) {}

void CudaCache::reserve(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    if (count <= pages_.size())
        return;
    pages_.reserve(count);
    while (pages_.size() < count)
        pages_.emplace_back(device_, page_bytes_);
    std::vector<Address> addresses;
    for (const DeviceMemory &page : pages_)
        addresses.push_back(page.address());
    table_.fill(addresses.data(), addresses.size() * sizeof(Address));
}

bool CudaCache::trim(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    const bool trims = pages_.size() > count;
    while (pages_.size() > count)
        pages_.pop_back();
    return trims;
}

CacheArguments CudaCache::layer(size_t layer, const int *position) const {
    CacheArguments arguments{};
    arguments.pages = table_.as<uint8_t *>();
    arguments.offset = layer * layer_bytes_;
    arguments.head_bytes = head_bytes_;
    arguments.position = position;
    arguments.precision = precision_ == KvPrecision::int8   ? CACHE_INT8
                          : precision_ == KvPrecision::fp16 ? CACHE_FP16
                                                            : CACHE_FP32;
    return arguments;
}

} // namespace v2e::cuda
