// The projector of the type ovis_conv_adapter (docs/valley2.md, "Projector"): a convolution, then a visual vocabulary.
#pragma once

#include "vision/projector.hpp"
#include "vision/vocabulary.hpp"

#include <vector>

namespace v2e {

class OvisProjector final : public Projector {
  public:
    OvisProjector(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    double operations(size_t tiles) const override;
    Saturating scratch_bytes(Saturating tiles) const override;
    const VocabularyCounters *vocabulary() const override { return &counters_; }

  private:
    // The memory of one worker.
    struct Worker {
        RowBlock block;
        AlignedBuffer<float> rows; // patches around a token, then what the convolution makes of them
        VocabularyBlock vocabulary;
        AlignedBuffer<float> output;
    };

    size_t window() const { return TAPS * channels_; }
    void copy_window(const float *tile, size_t token, float *row) const;
    void project(Worker &worker, const TowerCall &call, size_t first, size_t count, StageCheck &check);

    size_t entries_;
    TowerMatrix convolution_; // (channels, 3 * 3 * channels): y, x, channel
    TowerMatrix scores_;      // (entries, channels)
    Vocabulary vocabulary_;
    VocabularyCounters counters_;
    std::vector<Worker> workers_;
};

} // namespace v2e
