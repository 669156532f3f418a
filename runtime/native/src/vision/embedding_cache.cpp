#include "vision/embedding_cache.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace v2e {
namespace {

constexpr size_t CHANNELS = 3;
constexpr size_t HASHED_TOGETHER = size_t{8} << 20; // bytes of pixels between two questions

void add(Digest &digest, uint64_t number) {
    digest.add(&number, sizeof number);
}

} // namespace

Digest::Value picture_key(const uint8_t *pixels, const v2e_geometry &geometry, const GeometryOptions &options,
                          const std::function<bool()> &go_on) {
    static_assert(std::has_unique_object_representations_v<v2e_geometry>, "hashed as bytes");
    Digest digest;
    digest.add(&geometry, sizeof geometry);
    for (const uint64_t number :
         {uint64_t{options.tile_size}, uint64_t{options.tokens_per_side}, uint64_t{options.tiled},
          uint64_t{options.unpad}, uint64_t{options.max_vision_token}, uint64_t{options.eagle},
          options.eagle_min_pixels, options.eagle_max_pixels, uint64_t{options.canvases.size()}})
        add(digest, number);
    for (const Size canvas : options.canvases) {
        add(digest, canvas.width);
        add(digest, canvas.height);
    }
    // The geometry, which comes before the pixels, has their number.
    const size_t bytes = CHANNELS * geometry.width * geometry.height;
    for (size_t first = 0; first < bytes; first += HASHED_TOGETHER) {
        if (!go_on())
            fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
        digest.add(pixels + first, std::min(HASHED_TOGETHER, bytes - first));
    }
    return digest.finish();
}

SharedEmbeddings EmbeddingCache::find(const Key &key) {
    const std::lock_guard<std::mutex> lock(lock_);
    const auto place = places_.find(key);
    if (place == places_.end())
        return nullptr;
    entries_.splice(entries_.end(), entries_, place->second);
    return place->second->embeddings;
}

void EmbeddingCache::keep(const Key &key, SharedEmbeddings embeddings) {
    const std::lock_guard<std::mutex> lock(lock_);
    const uint64_t bytes = embeddings->bytes();
    // Another thread may have been as quick.
    if (budget_bytes_ == 0 || bytes > budget_bytes_ || places_.contains(key))
        return;
    drop_to(budget_bytes_ - bytes);
    entries_.push_back({key, std::move(embeddings)});
    try {
        places_.emplace(key, std::prev(entries_.end()));
    } catch (...) { // no memory for it
        entries_.pop_back();
        throw;
    }
    used_bytes_ += bytes;
}

void EmbeddingCache::resize(uint64_t budget_bytes) {
    const std::lock_guard<std::mutex> lock(lock_);
    budget_bytes_ = budget_bytes;
    drop_to(budget_bytes);
}

void EmbeddingCache::clear() {
    const std::lock_guard<std::mutex> lock(lock_);
    drop_to(0);
}

uint64_t EmbeddingCache::budget_bytes() const {
    const std::lock_guard<std::mutex> lock(lock_);
    return budget_bytes_;
}

uint64_t EmbeddingCache::used_bytes() const {
    const std::lock_guard<std::mutex> lock(lock_);
    return used_bytes_;
}

void EmbeddingCache::drop_to(uint64_t budget_bytes) {
    while (used_bytes_ > budget_bytes) {
        used_bytes_ -= entries_.front().embeddings->bytes();
        places_.erase(entries_.front().key);
        entries_.pop_front();
    }
}

} // namespace v2e
