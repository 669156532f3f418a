#include "vision/shuffle_projector.hpp"

#include <algorithm>

namespace v2e {
namespace {

enum Stage : int { FEATURES, MLP };

std::string stage_name(int stage) {
    return stage == FEATURES ? "the features" : "the MLP";
}

} // namespace

ShuffleProjector::ShuffleProjector(TowerFile file, const TowerOptions &options)
    : Projector(std::move(file), options), ratio_(file_.size("pixelshuffle_downsample_ratio", side_)),
      mlp_(file_, ratio_ * ratio_ * channels_, file_.size("mlp_hidden_dim", MOST_ENTRIES), output_) {
    if (side_ % ratio_ != 0)
        file_.refuse("its pixelshuffle_downsample_ratio does not divide the patches of a row");
    token_side_ = side_ / ratio_;
}

void ShuffleProjector::run(const TowerCall &call) {
    mlp_.reserve(tokens(), engine_.threads());
    for (size_t tile = 0; tile < call.count; ++tile) {
        report(call, tile, call.count);
        const float *features = call.input + tile * input_floats();
        float *output = call.output + tile * tokens() * output_;
        StageCheck check(file_.tower());
        const auto square = [&](float *buffer, size_t token) {
            copy_square(features, token, buffer);
            return buffer;
        };
        mlp_.run(engine_, tokens(), square, check, FEATURES);
        engine_.run(tokens(), [&](size_t, size_t token) {
            check.note(copy_token(mlp_.values() + token * mlp_.stride(), output_, output + token * output_), MLP);
        });
        check.require(stage_name);
    }
    report(call, call.count, call.count);
}

// The neighbours' channels one after the other, row by row.
void ShuffleProjector::copy_square(const float *tile, size_t token, float *row) const {
    const size_t top = token / token_side_ * ratio_, left = token % token_side_ * ratio_;
    for (size_t y = 0; y < ratio_; ++y)
        std::copy_n(tile + ((top + y) * side_ + left) * channels_, ratio_ * channels_, row + y * ratio_ * channels_);
}

} // namespace v2e
