// The keys and values of a session's positions.
#pragma once

#include "base/platform.hpp"
#include "cpu/attention/attention.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace v2e {

constexpr size_t KV_PRECISIONS = 3; // values of KvPrecision

// A page: KV_PAGE positions. For every layer and kv head: keys (KV_PAGE / 16, head_size, 16) and values (KV_PAGE,
// head_size); with int8, key_steps and value_steps (KV_PAGE,). One with several owners is not written to.
using KvPage = std::shared_ptr<AlignedBuffer<std::byte>>;

// Grows and shrinks by pages, which it may share.
class KvCache {
  public:
    KvCache(size_t layers, size_t kv_heads, size_t head_size, KvPrecision precision);

    // Reserves memory for `positions`. Throws std::bad_alloc.
    void reserve(size_t positions);
    // Frees the pages that `positions` do not need. Returns whether there were any.
    bool trim(size_t positions);

    size_t positions() const { return pages_.size() * KV_PAGE; } // that have memory
    const KvPage &page(size_t index) const { return pages_[index]; }
    // Another page with the same positions in it.
    void replace(size_t index, const KvPage &page);
    // Whether another owner has the page as well: then `copy_page` comes before the next write to it.
    bool shared(size_t index) const;
    void copy_page(size_t index);
    // A copy whose places behind the first `positions` of the cache are 0.
    AlignedBuffer<std::byte> clean_page(size_t index, size_t positions) const;

    KvPrecision precision() const { return precision_; }
    // Bytes of the pages that `positions` need.
    uint64_t bytes_of(size_t positions) const {
        return static_cast<uint64_t>((positions + KV_PAGE - 1) / KV_PAGE) * page_bytes_;
    }
    uint64_t bytes() const { return static_cast<uint64_t>(pages_.size()) * page_bytes_; }

    KvView view(size_t layer, size_t kv_head) const;
    // Where a position's key begins: channel c lies c * 16 elements behind.
    std::byte *key(size_t layer, size_t kv_head, size_t position);
    std::byte *value(size_t layer, size_t kv_head, size_t position);
    // The step that a position's key and value are multiples of; null without int8.
    float *key_step(size_t layer, size_t kv_head, size_t position);
    float *value_step(size_t layer, size_t kv_head, size_t position);

  private:
    float *step(size_t position, size_t offset);
    void clear(std::byte *page, size_t slot) const;

    size_t kv_heads_;
    size_t head_size_;
    KvPrecision precision_;
    size_t element_bytes_;
    size_t head_bytes_; // bytes of one layer and kv head in a page
    size_t page_bytes_;
    std::vector<KvPage> pages_;
    std::vector<const std::byte *> addresses_; // where the pages lie, as KvView takes them
};

} // namespace v2e
