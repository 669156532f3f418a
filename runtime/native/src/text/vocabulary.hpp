// The byte sequences that have a token, and their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

// Filled once, then read by any thread.
class Vocabulary {
  public:
    static constexpr int32_t NONE = -1;

    // Room for so many tokens and bytes.
    void reserve(size_t tokens, size_t bytes);
    // Adds a token in the room that was reserved; false: the bytes are there already.
    bool add(std::string_view bytes, int32_t id);

    int32_t find(std::string_view bytes) const; // NONE: no token
    size_t size() const { return entries_.size(); }
    // A token in the order in which they were added.
    int32_t id(size_t index) const { return entries_[index].id; }
    std::string_view bytes(size_t index) const {
        return std::string_view(bytes_).substr(entries_[index].first, entries_[index].size);
    }

  private:
    struct Entry {
        uint32_t first, size; // in the bytes
        int32_t id;
    };

    size_t slot_of(std::string_view bytes) const;

    std::string bytes_;
    std::vector<Entry> entries_;
    std::vector<uint32_t> slots_; // open addressing: index of an entry + 1, or 0
};

} // namespace v2e
