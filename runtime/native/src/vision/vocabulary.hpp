// The visual vocabulary of the ovis projector: scores to a mixture of its entries, without those that cannot matter.
#pragma once

#include "vision/row_block.hpp"
#include "vision/tower.hpp"

#include <atomic>
#include <cstddef>
#include <vector>

namespace v2e {

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

    void reserve(size_t entries);
    static size_t bytes(size_t entries);

    float *scores() { return scores_.data(); } // (ROWS, padded entries)
    static size_t stride(size_t entries) { return round_up(entries, VISION_PANEL); }

    // LayerNorm, softmax, and the mixture: scores (count, entries) to output (count, padded outputs of the matrix).
    // In each row entries are left out whose probabilities sum up to `dropped_mass` at most. False when a row is not
    // finite.
    bool mix(const TowerEngine &engine, const TowerNorm &norm, float epsilon, const TowerMatrix &mixture, size_t count,
             float dropped_mass, float *output, VocabularyCounters &counters);

  private:
    float choose_limit(const VisionKernels &kernels, const float *row, size_t entries, float total,
                       float dropped_mass) const;

    AlignedBuffer<float> scores_;
    AlignedBuffer<uint32_t> words_;     // the rows' probabilities of the picked words, as place_row puts them
    AlignedBuffer<uint32_t> row_words_; // one row's
    AlignedBuffer<uint32_t> picks_;     // words of the vocabulary that are multiplied
    AlignedBuffer<uint8_t> wanted_;     // by word: some row needs it
    AlignedBuffer<float> gathered_;     // one row's picked probabilities
    AlignedBuffer<uint32_t> scratch_;   // one panel's picked words
};

} // namespace v2e
