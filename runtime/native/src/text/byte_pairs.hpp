// Byte-pair encoding of one word (arXiv 1508.07909, section 3.2), in the order in which `tokenizers` merges.
#pragma once

#include "text/vocabulary.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace v2e {

// What two tokens side by side become.
struct Merge {
    uint32_t rank;   // the smaller one goes first
    int32_t product; // id of the token
};

// The merges by their pairs: open addressing. Filled once, then read by any thread.
class MergeTable {
  public:
    void reserve(size_t merges);
    // Adds a merge in the room that was reserved; of two of a pair the later one counts.
    void add(int32_t left, int32_t right, Merge merge);
    const Merge *find(int32_t left, int32_t right) const; // null: the two stay apart

  private:
    struct Slot {
        int32_t left, right; // left -1: empty
        Merge merge;
    };

    size_t slot_of(int32_t left, int32_t right) const;

    std::vector<Slot> slots_;
    uint64_t seed_ = 0;
};

// What a word is encoded with.
struct BytePairTables {
    Vocabulary vocabulary;
    MergeTable merges;
    std::array<int32_t, 256> byte_ids{}; // the tokens of single bytes; Vocabulary::NONE: a byte that is left out
    bool ignore_merges = false;          // a word that is a token is not merged
};

// Encodes words one after the other, and remembers short ones. It belongs to one thread and one text.
class WordEncoder {
  public:
    // text_size: bytes of the text, which decide how many words are remembered.
    WordEncoder(const BytePairTables &tables, size_t text_size);

    // Appends the ids of a word. All calls are given the same vector, in which earlier words stay where they are.
    void encode(std::string_view word, std::vector<int32_t> &ids);

  private:
    static constexpr size_t KEPT_BYTES = 23; // the longest word that is remembered

    // A word and where its ids stand. A word that is hashed to the same slot takes its place.
    struct Kept {
        std::array<uint64_t, 3> key{}; // the bytes, the rest zero; in the last byte the length
        size_t first = 0;              // place of its ids
        size_t count = 0;
    };
    // One of the tokens that a word consists of by now. Its neighbours are known by their places.
    struct Symbol {
        int32_t id; // Vocabulary::NONE: it was joined to the one before it
        uint32_t previous, next;
    };
    // Two neighbours that can be joined; those whose symbols have changed since are passed over.
    struct Candidate {
        uint32_t rank, place;
        int32_t product;
    };

    void merge(std::string_view word, std::vector<int32_t> &ids);
    void suggest(uint32_t place);
    void join(const Candidate &candidate);

    const BytePairTables &tables_;
    uint64_t seed_;
    std::vector<Kept> kept_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> candidates_; // a heap: the smallest rank first, of equal ones the first place
};

} // namespace v2e
