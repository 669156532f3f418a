#include "vision/siglip.hpp"

#include <algorithm>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t MOST_PIXELS = 4096;
constexpr size_t MOST_WIDTH = 1 << 15;
constexpr size_t MOST_LAYERS = 1024;

TransformerShape read_shape(const TowerFile &file) {
    return {file.size("hidden_size", MOST_WIDTH),
            file.size("num_attention_heads", MOST_WIDTH),
            file.size("intermediate_size", MOST_WIDTH),
            file.size("num_hidden_layers", MOST_LAYERS),
            static_cast<float>(file.number("layer_norm_eps", 0, 1)),
            Finish::gelu_tanh};
}

} // namespace

Siglip::Siglip(TowerFile file, const TowerOptions &options)
    : NativeTower(std::move(file), options), image_(file_.size("image_size", MOST_PIXELS)),
      patch_(file_.size("patch_size", image_)), side_(image_ / patch_), layers_(file_, read_shape(file_)) {
    const size_t width = layers_.shape().width;
    embedding_ = file_.matrix("patch_embedding", width, patch_floats());
    positions_ = file_.vectors("position_embedding", patches(), width);
    norm_ = file_.norm("post_norm", width);
    blocks_.resize(engine_.threads());
}

void Siglip::run(const TowerCall &call) {
    const size_t steps = layers_.shape().layers;
    hidden_.reserve(call.count * patches() * layers_.shape().stride() + VISION_PANEL);
    report(call, 0, steps);
    embed(call);
    const TransformerInput input{hidden_.data(), call.count, patches(), nullptr, nullptr};
    layers_.run(engine_, input, [&](size_t layer) {
        if (layer > 0)
            report(call, layer, steps);
    });
    normalise(call);
    report(call, steps, steps);
}

// Values of one patch in the order of the convolution's kernel: channel, y, x.
void Siglip::copy_patch(const float *tile, size_t patch, float *row) const {
    const size_t top = patch / side_ * patch_, left = patch % side_ * patch_;
    for (size_t channel = 0; channel < CHANNELS; ++channel)
        for (size_t y = 0; y < patch_; ++y)
            std::copy_n(tile + (channel * image_ + top + y) * image_ + left, patch_,
                        row + (channel * patch_ + y) * patch_);
}

void Siglip::embed(const TowerCall &call) {
    const size_t rows = call.count * patches(), stride = layers_.shape().stride();
    const size_t patch_stride = round_up(patch_floats(), VISION_PANEL);
    const BlockPlan plan(rows, engine_.threads());
    for (RowBlock &block : blocks_)
        block.reserve(patch_floats(), patch_stride);
    StageCheck check(file_.tower());
    engine_.run(plan.blocks, [&](size_t worker, size_t index) {
        RowBlock &block = blocks_[worker];
        const size_t first = plan.first(index), count = plan.count(index);
        for (size_t row = first; row < first + count; ++row) {
            copy_patch(call.input + row / patches() * input_floats(), row % patches(),
                       block.wide() + (row - first) * patch_stride);
            std::copy_n(positions_ + row % patches() * stride, stride, hidden_.data() + row * stride);
        }
        check.note(block.pack(engine_, embedding_, block.wide(), patch_stride, count), 0);
        block.multiply(engine_, embedding_, hidden_.data() + first * stride, stride, Finish::add);
    });
    check.require([](int) { return std::string("the pixels"); });
}

void Siglip::normalise(const TowerCall &call) {
    const TransformerShape &shape = layers_.shape();
    const size_t rows = call.count * patches();
    const BlockPlan plan(rows, engine_.threads());
    StageCheck check(file_.tower());
    engine_.run(plan.blocks, [&](size_t worker, size_t index) {
        float *row_of = blocks_[worker].wide();
        const size_t first = plan.first(index), last = plan.first(index + 1);
        for (size_t row = first; row < last; ++row) {
            check.note(engine_.kernels().layer_norm(hidden_.data() + row * shape.stride(), shape.width, norm_.weight,
                                                    norm_.bias, shape.epsilon, row_of),
                       0);
            std::copy_n(row_of, shape.width, call.output + row * shape.width);
        }
    });
    check.require([](int) { return std::string("the last norm"); });
}

double Siglip::operations(size_t tiles) const {
    const auto embedding = static_cast<double>(tiles * patches() * patch_floats() * layers_.shape().width);
    return layers_.operations(tiles, patches()) + 2 * embedding;
}

Saturating Siglip::scratch_bytes(Saturating tiles) const {
    return tiles * sizeof(float) * patches() * layers_.shape().stride() +
           layers_.scratch_bytes(engine_, tiles, patches()) +
           blocks_.size() * RowBlock::bytes(patch_floats(), patch_floats());
}

} // namespace v2e
