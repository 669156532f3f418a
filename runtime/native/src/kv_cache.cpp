#include "kv_cache.hpp"

namespace v2e {

KvCache::KvCache(size_t layers, size_t kv_heads, size_t head_size, bool half)
    : kv_heads_(kv_heads), head_size_(head_size), half_(half), element_bytes_(half ? 2 : 4),
      page_bytes_(layers * kv_heads * 2 * KV_PAGE * head_size * element_bytes_) {}

void KvCache::reserve(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    pages_.reserve(count);
    addresses_.reserve(count);
    while (pages_.size() < count) {
        pages_.emplace_back(page_bytes_);
        addresses_.push_back(pages_.back().data());
    }
}

void KvCache::trim(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    while (pages_.size() > count) {
        pages_.pop_back();
        addresses_.pop_back();
    }
}

size_t KvCache::key_offset(size_t layer, size_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * 2 * KV_PAGE * head_size_ * element_bytes_;
}

size_t KvCache::value_offset(size_t layer, size_t kv_head) const {
    return key_offset(layer, kv_head) + KV_PAGE * head_size_ * element_bytes_;
}

KvView KvCache::view(size_t layer, size_t kv_head) const {
    return {addresses_.data(), key_offset(layer, kv_head), value_offset(layer, kv_head), half_};
}

std::byte *KvCache::key(size_t layer, size_t kv_head, size_t position) {
    const size_t slot = position % KV_PAGE;
    const size_t element = slot / KEY_LANES * head_size_ * KEY_LANES + slot % KEY_LANES;
    return pages_[position / KV_PAGE].data() + key_offset(layer, kv_head) + element * element_bytes_;
}

std::byte *KvCache::value(size_t layer, size_t kv_head, size_t position) {
    const size_t element = position % KV_PAGE * head_size_;
    return pages_[position / KV_PAGE].data() + value_offset(layer, kv_head) + element * element_bytes_;
}

} // namespace v2e
