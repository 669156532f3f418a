// The Eagle tower and its merger (docs/valley2.md, "Eagle tower"): patches of one picture to tokens.
#pragma once

#include "vision/transformer.hpp"

namespace v2e {

class Eagle final : public NativeTower {
  public:
    Eagle(TowerFile file, const TowerOptions &options);

    void run(const TowerCall &call) override;
    size_t input_floats() const override { return patch_floats_; }
    Saturating output_floats(Saturating patches) const override { return patches / merged_ * output_; }
    double operations(size_t patches) const override;
    Saturating scratch_bytes(Saturating patches) const override;

  private:
    size_t merged_width() const { return merged_ * layers_.shape().width; }
    void make_rotation(const TowerCall &call);
    void embed(const TowerCall &call);
    void merge(const TowerCall &call);

    Transformer layers_;
    size_t patch_floats_; // 3 * patch * patch
    size_t slices_;       // equal temporal slices of a patch
    size_t merged_;       // patches of a token
    size_t output_;       // channels of a token
    double theta_;
    TowerMatrix embedding_;       // (width, slices * patch_floats)
    TowerNorm norm_;              // the merger's norm
    TowerMatrix inner_, outer_;   // (merged_width, merged_width), (output, merged_width)
    AlignedBuffer<float> hidden_; // (patches, stride)
    AlignedBuffer<float> cosine_; // (patches, head_size / 2)
    AlignedBuffer<float> sine_;
    std::vector<RowBlock> blocks_;
};

} // namespace v2e
