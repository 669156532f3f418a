// Embeddings of pictures that came before, found again by what is in them.
#pragma once

#include "base/digest.hpp"
#include "picture/geometry.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace v2e {

// What the vision half makes of one picture. Nobody writes to it once it is shared.
struct PictureEmbeddings {
    size_t tokens = 0;         // SigLIP's, then Eagle's
    size_t hidden_size = 0;    // of the decoder
    std::vector<float> values; // (tokens, hidden_size)

    uint64_t bytes() const { return values.size() * sizeof(float); }
};

using SharedEmbeddings = std::shared_ptr<const PictureEmbeddings>;

// A picture is known by its pixels and by all that decides what becomes of them. File names, formats and metadata do
// not matter. go_on is asked between pieces of some megabytes; where it says no, this fails with V2E_ERROR_CANCELLED.
// pixels: (geometry.height, geometry.width, 3).
Digest::Value picture_key(const uint8_t *pixels, const v2e_geometry &geometry, const GeometryOptions &options,
                          const std::function<bool()> &go_on);

// Within a budget of bytes; what was used least recently goes first. Safe for threads. It belongs to one encoder, whose
// towers are the same for all of its pictures.
class EmbeddingCache {
  public:
    using Key = Digest::Value;

    // 0 keeps nothing.
    explicit EmbeddingCache(uint64_t budget_bytes) : budget_bytes_(budget_bytes) {}

    // Null when the picture is not known.
    SharedEmbeddings find(const Key &key);
    // What is larger than the budget is not kept; what another thread has put there before stays.
    void keep(const Key &key, SharedEmbeddings embeddings);
    // Sets another budget and drops what is beyond it.
    void resize(uint64_t budget_bytes);
    void clear();

    uint64_t budget_bytes() const;
    uint64_t used_bytes() const;

  private:
    struct Entry {
        Key key;
        SharedEmbeddings embeddings;
    };

    void drop_to(uint64_t budget_bytes); // the lock is held

    mutable std::mutex lock_;
    uint64_t budget_bytes_;
    uint64_t used_bytes_ = 0;
    std::list<Entry> entries_; // the least recently used first
    std::map<Key, std::list<Entry>::iterator> places_;
};

} // namespace v2e
