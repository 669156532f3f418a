#include "vision/eagle.hpp"

#include <algorithm>
#include <cmath>

namespace v2e {
namespace {

constexpr size_t CHANNELS = 3;
constexpr size_t MOST_WIDTH = 1 << 14;
constexpr size_t MOST_LAYERS = 1024;
constexpr size_t MOST_SIDE = 256;

TransformerShape read_shape(const TowerFile &file) {
    const size_t width = file.size("embed_dim", MOST_WIDTH);
    return {width,
            file.size("num_heads", width),
            width * file.size("mlp_ratio", 16),
            file.size("depth", MOST_LAYERS),
            static_cast<float>(file.number("layer_norm_eps", 0, 1)),
            Finish::quick_gelu};
}

} // namespace

Eagle::Eagle(TowerFile file, const TowerOptions &options)
    : NativeTower(std::move(file), options), layers_(file_, read_shape(file_)),
      output_(file_.size("hidden_size", MOST_WIDTH * 4)), theta_(file_.number("rope_theta", 1, 1e12)) {
    const size_t patch = file_.size("patch_size", MOST_SIDE), merge = file_.size("spatial_merge_size", 16);
    patch_floats_ = CHANNELS * patch * patch;
    merged_ = merge * merge;
    if (layers_.shape().head_size() % 4 != 0)
        file_.refuse("its positions cannot be computed by this release");
    slices_ = file_.size("temporal_patch_size", 16);
    embedding_ = file_.matrix("patch_embedding", layers_.shape().width, slices_ * patch_floats_);
    norm_ = file_.norm("merger.norm", layers_.shape().width);
    inner_ = file_.matrix("merger.inner", merged_width(), merged_width());
    outer_ = file_.matrix("merger.outer", output_, merged_width());
    blocks_.resize(engine_.threads());
}

void Eagle::run(const TowerCall &call) {
    check_patches(call, merged_);
    const size_t steps = layers_.shape().layers + 1;
    hidden_.reserve(call.count * layers_.shape().stride() + VISION_PANEL);
    report(call, 0, steps);
    make_rotation(call);
    embed(call);
    const TransformerInput input{hidden_.data(), 1, call.count, cosine_.data(), sine_.data()};
    layers_.run(engine_, input, [&](size_t layer) {
        if (layer > 0)
            report(call, layer, steps);
    });
    report(call, steps - 1, steps);
    merge(call);
    report(call, steps, steps);
}

// The row's angles, then the column's, in float32 as transformers has them.
void Eagle::make_rotation(const TowerCall &call) {
    const size_t half = layers_.shape().head_size() / 2, axis = half / 2;
    std::vector<float> frequencies(axis);
    for (size_t k = 0; k < axis; ++k)
        frequencies[k] =
            static_cast<float>(1.0 / std::pow(theta_, static_cast<double>(2 * k) / static_cast<double>(half)));
    cosine_.reserve(call.count * half);
    sine_.reserve(call.count * half);
    constexpr size_t PATCHES = 64; // patches of a task
    engine_.run((call.count + PATCHES - 1) / PATCHES, [&](size_t, size_t task) {
        for (size_t patch = task * PATCHES; patch < std::min(call.count, (task + 1) * PATCHES); ++patch)
            for (size_t i = 0; i < half; ++i) {
                const auto position = static_cast<float>(call.positions[2 * patch + i / axis]);
                const auto angle = static_cast<double>(position * frequencies[i % axis]);
                cosine_[patch * half + i] = static_cast<float>(std::cos(angle));
                sine_[patch * half + i] = static_cast<float>(std::sin(angle));
            }
    });
}

// A picture's temporal slices are equal: each patch is multiplied with the weights of every slice.
void Eagle::embed(const TowerCall &call) {
    const size_t stride = layers_.shape().stride(), padded = round_up(embedding_.columns, VISION_PANEL);
    const BlockPlan plan(call.count, engine_.threads());
    for (RowBlock &block : blocks_)
        block.reserve(embedding_.columns, padded);
    StageCheck check(file_.tower());
    engine_.run(plan.blocks, [&](size_t worker, size_t index) {
        RowBlock &block = blocks_[worker];
        const size_t first = plan.first(index), count = plan.count(index);
        for (size_t row = 0; row < count; ++row)
            for (size_t slice = 0; slice < slices_; ++slice)
                std::copy_n(call.input + (first + row) * patch_floats_, patch_floats_,
                            block.wide() + row * padded + slice * patch_floats_);
        check.note(block.pack(engine_, embedding_, block.wide(), padded, count), 0);
        block.multiply(engine_, embedding_, hidden_.data() + first * stride, stride, Finish::store);
    });
    check.require([](int) { return std::string("the patches"); });
}

// Four consecutive patches, a 2 x 2 block of the picture, become one token.
void Eagle::merge(const TowerCall &call) {
    const TransformerShape &shape = layers_.shape();
    const size_t tokens = call.count / merged_, joined = round_up(merged_width(), VISION_PANEL);
    const size_t middle = inner_.padded_outputs(), output = outer_.padded_outputs();
    const BlockPlan plan(tokens, engine_.threads());
    for (RowBlock &block : blocks_)
        block.reserve(merged_width(), std::max({joined, middle, output}));
    StageCheck check(file_.tower());
    engine_.run(plan.blocks, [&](size_t worker, size_t index) {
        RowBlock &block = blocks_[worker];
        const size_t first = plan.first(index), count = plan.count(index);
        bool finite = true;
        for (size_t row = 0; row < count; ++row)
            for (size_t part = 0; part < merged_;
                 ++part) // each norm may write beyond its end, where the next one begins
                finite &= engine_.kernels().layer_norm(
                    hidden_.data() + ((first + row) * merged_ + part) * shape.stride(), shape.width, norm_.weight,
                    norm_.bias, shape.epsilon, block.wide() + row * joined + part * shape.width);
        check.note(finite, 0);
        check.note(block.pack(engine_, inner_, block.wide(), joined, count), 0);
        block.multiply(engine_, inner_, block.wide(), middle, Finish::gelu);
        check.note(block.pack(engine_, outer_, block.wide(), middle, count), 1);
        block.multiply(engine_, outer_, block.wide(), output, Finish::store);
        for (size_t row = 0; row < count; ++row) {
            const float *token = block.wide() + row * output;
            check.note(std::all_of(token, token + output_, [](float value) { return std::isfinite(value); }), 1);
            std::copy_n(token, output_, call.output + (first + row) * output_);
        }
    });
    check.require([](int stage) { return std::string(stage == 0 ? "the merger's norm" : "the merger"); });
}

double Eagle::operations(size_t patches) const {
    const auto embedding = static_cast<double>(patches * embedding_.columns * layers_.shape().width);
    const auto merger = static_cast<double>(patches / merged_ * merged_width() * (merged_width() + output_));
    return layers_.operations(1, patches) + 2 * (embedding + merger);
}

Saturating Eagle::scratch_bytes(Saturating patches) const {
    const size_t widest = std::max({merged_width(), output_, embedding_.columns});
    return patches * sizeof(float) * (layers_.shape().stride() + layers_.shape().head_size()) +
           layers_.scratch_bytes(engine_, 1, patches) + blocks_.size() * RowBlock::bytes(widest, widest);
}

} // namespace v2e
