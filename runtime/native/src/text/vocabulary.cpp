#include "text/vocabulary.hpp"

#include "text/hashing.hpp"

#include <bit>

namespace v2e {

void Vocabulary::reserve(size_t tokens, size_t bytes) {
    bytes_.reserve(bytes);
    entries_.reserve(tokens);
    slots_.assign(std::bit_ceil(tokens + tokens / 2 + 1), 0);
}

bool Vocabulary::add(std::string_view bytes, int32_t id) {
    const size_t slot = slot_of(bytes);
    if (slots_[slot] != 0)
        return false;
    entries_.push_back({static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(bytes.size()), id});
    bytes_.append(bytes);
    slots_[slot] = static_cast<uint32_t>(entries_.size());
    return true;
}

int32_t Vocabulary::find(std::string_view bytes) const {
    const uint32_t found = slots_.empty() ? 0 : slots_[slot_of(bytes)];
    return found == 0 ? NONE : entries_[found - 1].id;
}

// Where the bytes are, or where they would be.
size_t Vocabulary::slot_of(std::string_view bytes) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = hash_bytes(bytes, hash_seed()) & mask;
    while (slots_[slot] != 0 && this->bytes(slots_[slot] - 1) != bytes)
        slot = (slot + 1) & mask;
    return slot;
}

} // namespace v2e
