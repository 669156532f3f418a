// The visual vocabulary of the ovis projector: scores become a mixture of its entries, without those that cannot
// matter, or one of its entries.
#pragma once

#include "vision/row_block.hpp"
#include "vision/tower.hpp"

#include <atomic>
#include <cstddef>
#include <vector>

namespace v2e {

// How the scores of a token choose among the entries (docs/valley2.md, "Projector").
enum class TokenizeFunction {
    softmax,  // all of them, by their probabilities
    st_argmax // the one with the largest score, the first of several
};

struct Vocabulary {
    TokenizeFunction function;
    TowerNorm norm;      // (entries,), of the scores
    TowerMatrix mixture; // (output, entries), bf16 or fp32
    float dropped_mass;  // most probability that softmax may leave out of a token
};

// What mixing has left out; of all rows since `reset`.
class VocabularyCounters {
  public:
    void reset();
    void add(double dropped, size_t kept, size_t multiplied);

    double largest_dropped() const { return largest_dropped_; }
    size_t rows() const { return rows_; }
    size_t kept() const { return kept_; }
    size_t multiplied() const { return multiplied_; }

  private:
    friend class VocabularyBlock;
    std::atomic<double> largest_dropped_{0};
    std::atomic<size_t> rows_{0}, kept_{0}, multiplied_{0};
};

// The memory of one worker, and what it does with some rows of scores.
class VocabularyBlock {
  public:
    static constexpr size_t ROWS = 48; // at most

    void reserve(size_t entries, TokenizeFunction function);
    static size_t bytes(size_t entries, TokenizeFunction function);

    float *scores() { return scores_.data(); } // (ROWS, padded entries)
    static size_t stride(size_t entries) { return round_up(entries, VISION_PANEL); }

    // LayerNorm of the scores (count, entries), and the tokens that they choose: (count, padded outputs of the matrix).
    // False when a row is not finite.
    bool make_tokens(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
                     VocabularyCounters &counters);

  private:
    // Softmax, and the mixture. In each row entries are left out whose probabilities sum up to `dropped_mass` at most.
    bool mix(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
             VocabularyCounters &counters);
    // The one entry of each row, as it is in the file.
    bool choose(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
                VocabularyCounters &counters);
    // A row of scores after its LayerNorm; null when it is not finite.
    float *normed_row(const TowerEngine &engine, const Vocabulary &vocabulary, size_t row);
    float choose_limit(const VisionKernels &kernels, const float *row, size_t entries, float total,
                       float dropped_mass) const;

    AlignedBuffer<float> scores_;
    // The others are for softmax alone.
    AlignedBuffer<uint32_t> words_;     // the rows' probabilities of the picked words, as place_row puts them
    AlignedBuffer<uint32_t> row_words_; // one row's
    AlignedBuffer<uint32_t> picks_;     // words of the vocabulary that are multiplied
    AlignedBuffer<uint8_t> wanted_;     // by word: some row needs it
    AlignedBuffer<float> gathered_;     // one row's picked probabilities
    AlignedBuffer<uint32_t> scratch_;   // one panel's picked words
};

} // namespace v2e
