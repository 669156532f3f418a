// The projector of the type mlp_pixel_shuffle (docs/valley2.md, "Projector"): squares of patches through an MLP.
#pragma once

#include "vision/projector.hpp"
#include "vision/projector_mlp.hpp"

namespace v2e {

class ShuffleProjector final : public Projector {
  public:
    ShuffleProjector(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    double operations(size_t tiles) const override { return static_cast<double>(tiles) * mlp_.operations(tokens()); }
    Saturating scratch_bytes(Saturating) const override { return mlp_.bytes(tokens(), engine_.threads()); }

  private:
    void copy_square(const float *tile, size_t token, float *row) const;

    size_t ratio_; // rows and columns of a square
    ProjectorMlp mlp_;
};

} // namespace v2e
