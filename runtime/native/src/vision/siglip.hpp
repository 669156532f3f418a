// The SigLIP tower (docs/valley2.md, "SigLIP"): pixels of tiles to features of patches.
#pragma once

#include "vision/transformer.hpp"

namespace v2e {

class Siglip final : public NativeTower {
  public:
    Siglip(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    size_t input_floats() const override { return CHANNELS * image_ * image_; }
    Saturating output_floats(Saturating tiles) const override { return tiles * patches() * layers_.shape().width; }
    double operations(size_t tiles) const override;
    Saturating scratch_bytes(Saturating tiles) const override;

  private:
    static constexpr size_t CHANNELS = 3;

    size_t patches() const { return side_ * side_; }
    size_t patch_floats() const { return CHANNELS * patch_ * patch_; }
    void embed(const TowerCall &call);
    void normalise(const TowerCall &call);
    void copy_patch(const float *tile, size_t patch, float *row) const;

    size_t image_, patch_, side_; // pixels, pixels, patches
    Transformer layers_;
    TowerMatrix embedding_;  // (width, 3 * patch * patch)
    const float *positions_; // (patches, width padded to 32)
    TowerNorm norm_;
    AlignedBuffer<float> hidden_; // (tiles * patches, stride)
    std::vector<RowBlock> blocks_;
};

} // namespace v2e
