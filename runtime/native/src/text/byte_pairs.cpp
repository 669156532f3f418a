#include "text/byte_pairs.hpp"

#include "text/hashing.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace v2e {
namespace {

constexpr uint32_t END = UINT32_MAX; // there is no neighbour
constexpr size_t MOST_KEPT = 8192;   // words
constexpr size_t BYTES_OF_A_KEPT_WORD = 16;

} // namespace

void MergeTable::reserve(size_t merges) {
    seed_ = hash_seed();
    slots_.assign(std::bit_ceil(merges + merges / 2 + 1), Slot{-1, -1, {}});
}

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
    slots_[slot_of(left, right)] = {left, right, merge};
}

const Merge *MergeTable::find(int32_t left, int32_t right) const {
    if (slots_.empty())
        return nullptr;
    const Slot &slot = slots_[slot_of(left, right)];
    return slot.left < 0 ? nullptr : &slot.merge;
}

// Where the pair is, or where it would be.
size_t MergeTable::slot_of(int32_t left, int32_t right) const {
    const size_t mask = slots_.size() - 1;
    const uint64_t pair = uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
    size_t slot = hash_number(pair, seed_) & mask;
    while (slots_[slot].left >= 0 && (slots_[slot].left != left || slots_[slot].right != right))
        slot = (slot + 1) & mask;
    return slot;
}

WordEncoder::WordEncoder(const BytePairTables &tables, size_t text_size)
    : tables_(tables), seed_(hash_seed()),
      kept_(std::bit_ceil(std::clamp<size_t>(text_size / BYTES_OF_A_KEPT_WORD, 1, MOST_KEPT))) {}

void WordEncoder::encode(std::string_view word, std::vector<int32_t> &ids) {
    if (word.size() > KEPT_BYTES) {
        merge(word, ids);
        return;
    }
    std::array<uint64_t, 3> key{};
    std::memcpy(key.data(), word.data(), word.size());
    const auto length = static_cast<unsigned char>(word.size());
    std::memcpy(reinterpret_cast<unsigned char *>(key.data()) + KEPT_BYTES, &length, 1);
    const uint64_t hash = fold(fold(key[0] ^ seed_, key[1] ^ 0x9e3779b97f4a7c15u) ^ key[2], seed_ | 1);
    Kept &kept = kept_[hash & (kept_.size() - 1)];
    if (kept.key == key) {
        const size_t place = ids.size();
        ids.resize(place + kept.count);
        std::copy_n(ids.begin() + static_cast<ptrdiff_t>(kept.first), kept.count,
                    ids.begin() + static_cast<ptrdiff_t>(place));
        return;
    }
    const size_t place = ids.size();
    merge(word, ids);
    kept = {key, place, ids.size() - place};
}

void WordEncoder::merge(std::string_view word, std::vector<int32_t> &ids) {
    if (tables_.ignore_merges) {
        if (const int32_t id = tables_.vocabulary.find(word); id != Vocabulary::NONE) {
            ids.push_back(id);
            return;
        }
    }
    symbols_.clear();
    for (const char byte : word) {
        const int32_t id = tables_.byte_ids[static_cast<unsigned char>(byte)];
        if (id == Vocabulary::NONE)
            continue;
        const auto place = static_cast<uint32_t>(symbols_.size());
        symbols_.push_back({id, place == 0 ? END : place - 1, place + 1});
    }
    if (symbols_.empty())
        return;
    symbols_.back().next = END;
    candidates_.clear();
    for (uint32_t place = 0; place + 1 < symbols_.size(); ++place)
        if (const Merge *found = tables_.merges.find(symbols_[place].id, symbols_[place + 1].id))
            candidates_.push_back({found->rank, place, found->product});
    const auto later = [](const Candidate &a, const Candidate &b) {
        return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
    };
    std::make_heap(candidates_.begin(), candidates_.end(), later);
    while (!candidates_.empty()) {
        std::pop_heap(candidates_.begin(), candidates_.end(), later);
        const Candidate first = candidates_.back();
        candidates_.pop_back();
        const size_t before = candidates_.size();
        join(first);
        for (size_t heap = before + 1; heap <= candidates_.size(); ++heap)
            std::push_heap(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(heap), later);
    }
    for (uint32_t place = 0; place != END; place = symbols_[place].next)
        ids.push_back(symbols_[place].id);
}

// Joins a symbol and the next one, if that still gives the token that the candidate names: by which of its merges does
// not matter, as in `tokenizers`. Appends the candidates that this brings.
void WordEncoder::join(const Candidate &candidate) {
    Symbol &left = symbols_[candidate.place];
    if (left.id == Vocabulary::NONE || left.next == END)
        return;
    Symbol &right = symbols_[left.next];
    const Merge *merge = tables_.merges.find(left.id, right.id);
    if (merge == nullptr || merge->product != candidate.product)
        return;
    left.id = candidate.product;
    left.next = right.next;
    right.id = Vocabulary::NONE;
    if (left.next != END)
        symbols_[left.next].previous = candidate.place;
    if (left.previous != END)
        suggest(left.previous);
    suggest(candidate.place);
}

// Appends the symbol and the next one to the candidates if they can be joined.
void WordEncoder::suggest(uint32_t place) {
    const Symbol &left = symbols_[place];
    if (left.next == END)
        return;
    if (const Merge *merge = tables_.merges.find(left.id, symbols_[left.next].id))
        candidates_.push_back({merge->rank, place, merge->product});
}

} // namespace v2e
