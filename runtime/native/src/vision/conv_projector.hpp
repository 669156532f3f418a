// The projector of the type conv_adapter (docs/valley2.md, "Projector"): an MLP on every patch, then a convolution.
#pragma once

#include "vision/projector.hpp"
#include "vision/projector_mlp.hpp"

#include <vector>

namespace v2e {

class ConvProjector final : public Projector {
  public:
    ConvProjector(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    double operations(size_t tiles) const override;
    Saturating scratch_bytes(Saturating tiles) const override;

  private:
    // The memory of one worker.
    struct Worker {
        AlignedBuffer<uint32_t> words; // the patches under one tap, as place_row puts them
        AlignedBuffer<float> sums;     // over the taps so far
        AlignedBuffer<uint32_t> scratch;
    };
    // Some tokens and some panels of the convolution.
    struct Task {
        size_t first_token, tokens;
        size_t first_panel, last_panel;
    };

    ProductPlan plan() const { return {tokens(), convolution_.panel_count(), engine_.threads()}; }
    size_t worker_words() const;
    size_t outside_words() const { return round_up(output_, VISION_LANES); }
    size_t worker_floats() const { return plan().rows * convolution_.padded_outputs(); }
    void convolve(const SharedRows &patches, float *output, StageCheck &check);
    void gather(Worker &worker, const SharedRows &patches, const Task &task, size_t tap) const;
    void add_tap(Worker &worker, const Task &task, size_t tap) const;

    ProjectorMlp mlp_;
    TowerMatrix convolution_;         // (output, 3 * 3 * output): y, x, channel
    AlignedBuffer<uint32_t> outside_; // a packed patch outside of the tile: zeros
    std::vector<Worker> workers_;
};

} // namespace v2e
