// The KV pages of earlier positions, of all sessions of a model, found again by what led up to them: a radix tree over
// the contents of pages (Zheng et al. 2024, "SGLang", section 3).
#pragma once

#include "base/digest.hpp"
#include "decoder/kv_cache.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace v2e {

// What stands at a position: a token, or the digest of an embedding. Equal keys up to a position mean equal keys and
// values there, in every bit: they do not depend on how many positions were computed together.
struct PositionKey {
    uint64_t low;
    uint64_t high; // 0: low is a token

    bool operator==(const PositionKey &) const = default;
};

PositionKey key_of_token(int32_t token);
// embedding: (hidden_size,)
PositionKey key_of_embedding(const float *embedding, size_t hidden_size);
bool is_key_of_embedding(const PositionKey &key);

constexpr uint64_t DEFAULT_PREFIX_CACHE_BYTES = uint64_t{256} << 20;

// What the fields of options structs say: bytes, where 0 is the default, and a flag for none.
constexpr uint64_t prefix_cache_budget(uint64_t bytes, uint32_t none) {
    return none != 0 ? 0 : bytes == 0 ? DEFAULT_PREFIX_CACHE_BYTES : bytes;
}

// Safe for threads. A page in the tree is never written to: a session that goes on in one copies it first. What no
// session holds is kept within the budget; what was used least recently goes first.
class PrefixCache {
  public:
    explicit PrefixCache(uint64_t budget_bytes) : budget_bytes_(budget_bytes) {}

    struct Match {
        std::vector<KvPage> pages; // that hold the positions
        size_t positions = 0;      // from the beginning
    };

    // The longest beginning of keys[0, most) whose pages are here.
    Match find(KvPrecision precision, const std::vector<PositionKey> &keys, size_t most);
    // Leaves the pages of a session's positions, as far as there are pages. Where a full page is here already, the
    // session takes that one.
    void insert(const std::vector<PositionKey> &keys, KvCache &cache);
    // A session is about to write to a page: makes room for the copy that it leaves here, or forgets the page.
    void before_copy(const KvPage &page);
    // Sessions have let pages go.
    void trim();
    void resize(uint64_t budget_bytes);

    uint64_t budget_bytes() const;
    uint64_t kept_bytes() const; // that no session holds
    uint64_t page_count() const;

  private:
    struct Node {
        std::vector<PositionKey> keys; // KV_PAGE of them in one with children, at least one in each but the root
        KvPage page;
        std::vector<std::unique_ptr<Node>> children;
        uint64_t used = 0; // when, in calls

        bool idle() const { return page.use_count() == 1; }
    };
    struct Place {
        Node *parent = nullptr;
        size_t child = 0;
    };

    Node &root(KvPrecision precision) { return roots_[static_cast<size_t>(precision)]; }
    static Node *insert_page(Node &parent, const PositionKey *keys, size_t count, const KvPage &page);
    void shrink(uint64_t budget_bytes);
    static uint64_t idle_bytes(const Node &node);
    static uint64_t count_pages(const Node &node);
    static void find_oldest_idle_leaf(Node &parent, Place &oldest);
    static bool forget(Node &parent, const KvPage &page);

    mutable std::mutex mutex_;
    uint64_t budget_bytes_;
    uint64_t calls_ = 0;
    std::array<Node, KV_PRECISIONS> roots_; // one a precision; without keys and page
};

} // namespace v2e
