// The projector of the type ovis_conv_adapter (docs/valley2.md, "Projector"): features of patches to tokens.
#pragma once

#include "vision/vocabulary.hpp"

namespace v2e {

class Projector final : public NativeTower {
  public:
    Projector(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    size_t input_floats() const override { return side_ * side_ * channels_; }
    Saturating output_floats(Saturating tiles) const override { return tiles * tokens() * output_; }
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

    size_t token_side() const { return (side_ + 1) / 2; }
    size_t tokens() const { return token_side() * token_side(); }
    size_t window() const { return 9 * channels_; }
    void copy_window(const float *tile, size_t token, float *row) const;
    void project(Worker &worker, const TowerCall &call, size_t first, size_t count, StageCheck &check);

    size_t side_, channels_, entries_, output_;
    TowerMatrix convolution_; // (channels, 3 * 3 * channels): y, x, channel
    TowerMatrix scores_;      // (entries, channels)
    TowerNorm norm_;
    TowerMatrix mixture_; // (output, entries)
    float dropped_mass_;
    VocabularyCounters counters_;
    std::vector<Worker> workers_;
};

} // namespace v2e
