#include "generation/prefix_cache.hpp"

#include <algorithm>
#include <cstring>

namespace v2e {
namespace {

constexpr uint64_t EMBEDDING = uint64_t{1} << 63; // in the high half of a key

size_t common_length(const std::vector<PositionKey> &one, const PositionKey *other, size_t most) {
    const size_t length = std::min(one.size(), most);
    return static_cast<size_t>(std::mismatch(one.begin(), one.begin() + static_cast<ptrdiff_t>(length), other).second -
                               other);
}

} // namespace

PositionKey key_of_token(int32_t token) {
    return {static_cast<uint32_t>(token), 0};
}

PositionKey key_of_embedding(const float *embedding, size_t hidden_size) {
    Digest digest;
    digest.add(embedding, hidden_size * sizeof *embedding);
    const Digest::Value value = digest.finish();
    PositionKey key;
    std::memcpy(&key, value.data(), sizeof key);
    key.high |= EMBEDDING;
    return key;
}

bool is_key_of_embedding(const PositionKey &key) {
    return (key.high & EMBEDDING) != 0;
}

PrefixCache::Match PrefixCache::find(KvPrecision precision, const std::vector<PositionKey> &keys, size_t most) {
    const std::lock_guard lock(mutex_);
    Match match;
    ++calls_;
    for (Node *node = &root(precision); node != nullptr && match.positions < most;) {
        Node *best = nullptr;
        size_t length = 0;
        for (const auto &child : node->children) {
            const size_t common = common_length(child->keys, keys.data() + match.positions, most - match.positions);
            if (common > length) {
                best = child.get();
                length = common;
            }
        }
        if (best == nullptr)
            break;
        best->used = calls_;
        match.pages.push_back(best->page);
        match.positions += length;
        node = length == KV_PAGE ? best : nullptr;
    }
    return match;
}

void PrefixCache::insert(const std::vector<PositionKey> &keys, KvCache &cache) {
    const std::lock_guard lock(mutex_);
    ++calls_;
    Node *node = &root(cache.precision());
    const size_t positions = std::min(keys.size(), cache.positions());
    for (size_t first = 0; first < positions; first += KV_PAGE) {
        const size_t index = first / KV_PAGE, count = std::min(KV_PAGE, positions - first);
        node = insert_page(*node, keys.data() + first, count, cache.page(index));
        node->used = calls_;
        if (count == KV_PAGE)
            cache.replace(index, node->page);
    }
}

// The child whose page begins with the keys, made unless it is there.
PrefixCache::Node *PrefixCache::insert_page(Node &parent, const PositionKey *keys, size_t count, const KvPage &page) {
    auto &children = parent.children;
    for (const auto &child : children)
        if (common_length(child->keys, keys, count) == count)
            return child.get();
    auto made = std::make_unique<Node>();
    made->keys.assign(keys, keys + count);
    made->page = page;
    std::erase_if(children, [&](const std::unique_ptr<Node> &child) { // the new page holds what they hold
        return common_length(child->keys, keys, count) == child->keys.size();
    });
    children.push_back(std::move(made));
    return children.back().get();
}

void PrefixCache::before_copy(const KvPage &page) {
    const std::lock_guard lock(mutex_);
    if (page.use_count() != 2) // the caller's and ours: after the copy it would be ours alone
        return;
    shrink(budget_bytes_ - std::min<uint64_t>(budget_bytes_, page->size()));
    uint64_t idle = page->size();
    for (const Node &node : roots_)
        idle += idle_bytes(node);
    if (idle > budget_bytes_)
        for (Node &node : roots_)
            if (forget(node, page))
                return;
}

void PrefixCache::trim() {
    const std::lock_guard lock(mutex_);
    shrink(budget_bytes_);
}

void PrefixCache::resize(uint64_t budget_bytes) {
    const std::lock_guard lock(mutex_);
    budget_bytes_ = budget_bytes;
    shrink(budget_bytes);
}

uint64_t PrefixCache::budget_bytes() const {
    const std::lock_guard lock(mutex_);
    return budget_bytes_;
}

uint64_t PrefixCache::kept_bytes() const {
    const std::lock_guard lock(mutex_);
    uint64_t bytes = 0;
    for (const Node &node : roots_)
        bytes += idle_bytes(node);
    return bytes;
}

uint64_t PrefixCache::page_count() const {
    const std::lock_guard lock(mutex_);
    uint64_t count = 0;
    for (const Node &node : roots_)
        count += count_pages(node);
    return count;
}

void PrefixCache::shrink(uint64_t budget_bytes) {
    uint64_t bytes = 0;
    for (const Node &node : roots_)
        bytes += idle_bytes(node);
    while (bytes > budget_bytes) {
        Place oldest;
        for (Node &node : roots_)
            find_oldest_idle_leaf(node, oldest);
        if (oldest.parent == nullptr)
            return;
        auto &children = oldest.parent->children;
        bytes -= children[oldest.child]->page->size();
        children.erase(children.begin() + static_cast<ptrdiff_t>(oldest.child));
    }
}

uint64_t PrefixCache::idle_bytes(const Node &node) {
    uint64_t bytes = node.page != nullptr && node.idle() ? node.page->size() : 0;
    for (const auto &child : node.children)
        bytes += idle_bytes(*child);
    return bytes;
}

uint64_t PrefixCache::count_pages(const Node &node) {
    uint64_t count = node.children.size();
    for (const auto &child : node.children)
        count += count_pages(*child);
    return count;
}

void PrefixCache::find_oldest_idle_leaf(Node &parent, Place &oldest) {
    for (size_t i = 0; i < parent.children.size(); ++i) {
        Node &child = *parent.children[i];
        find_oldest_idle_leaf(child, oldest);
        if (!child.children.empty() || !child.idle())
            continue;
        if (oldest.parent == nullptr || child.used < oldest.parent->children[oldest.child]->used)
            oldest = {&parent, i};
    }
}

// Removes the node of a page, which has no children: a session is about to go on in it.
bool PrefixCache::forget(Node &parent, const KvPage &page) {
    for (size_t i = 0; i < parent.children.size(); ++i) {
        Node &child = *parent.children[i];
        if (child.page == page && child.children.empty()) {
            parent.children.erase(parent.children.begin() + static_cast<ptrdiff_t>(i));
            return true;
        }
        if (forget(child, page))
            return true;
    }
    return false;
}

} // namespace v2e
