#include "decoder/kv_cache.hpp"

#include <atomic>
#include <cstring>

namespace v2e {

namespace {

size_t element_bytes(KvPrecision precision) {
    switch (precision) {
    case KvPrecision::int8:
        return 1;
    case KvPrecision::fp16:
        return 2;
    case KvPrecision::fp32:
        break;
    }
    return 4;
}

} // namespace

KvCache::KvCache(size_t layers, size_t kv_heads, size_t head_size, KvPrecision precision)
    : kv_heads_(kv_heads), head_size_(head_size), precision_(precision), element_bytes_(element_bytes(precision)),
      head_bytes_(2 * KV_PAGE * (head_size * element_bytes_ + (precision == KvPrecision::int8 ? sizeof(float) : 0))),
      page_bytes_(layers * kv_heads * head_bytes_) {}

void KvCache::reserve(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    pages_.reserve(count);
    addresses_.reserve(count);
    while (pages_.size() < count) {
        pages_.push_back(std::make_shared<AlignedBuffer<std::byte>>(page_bytes_));
        addresses_.push_back(pages_.back()->data());
    }
}

bool KvCache::trim(size_t positions) {
    const size_t count = (positions + KV_PAGE - 1) / KV_PAGE;
    if (pages_.size() <= count)
        return false;
    pages_.resize(count);
    addresses_.resize(count);
    return true;
}

void KvCache::replace(size_t index, const KvPage &page) {
    pages_[index] = page;
    addresses_[index] = page->data();
}

bool KvCache::shared(size_t index) const {
    if (pages_[index].use_count() > 1)
        return true;
    // Whoever read the page before he let it go is done with it.
    std::atomic_thread_fence(std::memory_order_acquire);
    return false;
}

void KvCache::copy_page(size_t index) {
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(page_bytes_);
    std::memcpy(copy->data(), pages_[index]->data(), page_bytes_);
    replace(index, copy);
}

AlignedBuffer<std::byte> KvCache::clean_page(size_t index, size_t positions) const {
    AlignedBuffer<std::byte> copy(page_bytes_);
    std::memcpy(copy.data(), pages_[index]->data(), page_bytes_);
    for (size_t slot = 0; slot < KV_PAGE; ++slot)
        if (index * KV_PAGE + slot >= positions)
            clear(copy.data(), slot);
    return copy;
}

// One place of every layer and kv head.
void KvCache::clear(std::byte *page, size_t slot) const {
    const size_t block = KV_PAGE * head_size_ * element_bytes_;
    const size_t first_key = (slot / KEY_LANES * head_size_ * KEY_LANES + slot % KEY_LANES) * element_bytes_;
    for (std::byte *head = page; head < page + page_bytes_; head += head_bytes_) {
        for (size_t channel = 0; channel < head_size_; ++channel)
            std::memset(head + first_key + channel * KEY_LANES * element_bytes_, 0, element_bytes_);
        std::memset(head + block + slot * head_size_ * element_bytes_, 0, head_size_ * element_bytes_);
        if (precision_ != KvPrecision::int8)
            continue;
        std::memset(head + 2 * block + slot * sizeof(float), 0, sizeof(float));
        std::memset(head + 2 * block + (KV_PAGE + slot) * sizeof(float), 0, sizeof(float));
    }
}

KvView KvCache::view(size_t layer, size_t kv_head) const {
    const size_t block = KV_PAGE * head_size_ * element_bytes_;
    KvView view;
    view.pages = addresses_.data();
    view.key_offset = (layer * kv_heads_ + kv_head) * head_bytes_;
    view.value_offset = view.key_offset + block;
    view.key_step_offset = view.value_offset + block;
    view.value_step_offset = view.key_step_offset + KV_PAGE * sizeof(float);
    view.precision = precision_;
    return view;
}

std::byte *KvCache::key(size_t layer, size_t kv_head, size_t position) {
    const size_t slot = position % KV_PAGE;
    const size_t element = slot / KEY_LANES * head_size_ * KEY_LANES + slot % KEY_LANES;
    return pages_[position / KV_PAGE]->data() + view(layer, kv_head).key_offset + element * element_bytes_;
}

std::byte *KvCache::value(size_t layer, size_t kv_head, size_t position) {
    const size_t element = position % KV_PAGE * head_size_;
    return pages_[position / KV_PAGE]->data() + view(layer, kv_head).value_offset + element * element_bytes_;
}

float *KvCache::step(size_t position, size_t offset) {
    if (precision_ != KvPrecision::int8)
        return nullptr;
    return reinterpret_cast<float *>(pages_[position / KV_PAGE]->data() + offset) + position % KV_PAGE;
}

float *KvCache::key_step(size_t layer, size_t kv_head, size_t position) {
    return step(position, view(layer, kv_head).key_step_offset);
}

float *KvCache::value_step(size_t layer, size_t kv_head, size_t position) {
    return step(position, view(layer, kv_head).value_step_offset);
}

} // namespace v2e
