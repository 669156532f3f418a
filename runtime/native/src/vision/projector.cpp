#include "vision/projector.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <cmath>

namespace v2e {
namespace {

constexpr size_t MOST_SIDE = 1024;
constexpr size_t MOST_WIDTH = 1 << 16;
constexpr size_t MOST_ENTRIES = 1 << 20;
constexpr float NORM_EPSILON = 1e-5f;
constexpr float DEFAULT_DROPPED_MASS = 1e-4f;

enum Stage : int { FEATURES, CONVOLUTION, VOCABULARY };

std::string stage_name(int stage) {
    static const char *const NAMES[] = {"the features", "the convolution", "the visual vocabulary"};
    return NAMES[stage];
}

} // namespace

Projector::Projector(TowerFile file, const TowerOptions &options)
    : NativeTower(std::move(file), options), side_(file_.size("patches_per_side", MOST_SIDE)),
      channels_(file_.size("input_size", MOST_WIDTH)), entries_(file_.size("mlp_hidden_dim", MOST_ENTRIES)),
      output_(file_.size("output_size", MOST_WIDTH)), dropped_mass_(options.dropped_mass) {
    if (file_.text("type") != "ovis_conv_adapter")
        file_.refuse("it is a projector of a type that this release cannot compute");
    if (!(options.dropped_mass >= 0 && options.dropped_mass < 0.5f))
        fail(V2E_ERROR_INPUT, "dropped_mass is %g; it must be at least 0 and below 0.5.",
             static_cast<double>(options.dropped_mass));
    convolution_ = file_.matrix("convolution", channels_, window());
    scores_ = file_.matrix("vocabulary", entries_, channels_);
    norm_ = file_.norm("vocabulary_norm", entries_);
    mixture_ = file_.matrix("mixture", output_, entries_);
    if (mixture_.precision == VisionPrecision::int8)
        file_.refuse("the matrix 'mixture' must be bf16 or fp32: int8 has no steps for small probabilities");
    // fp32 is there for exact results
    if (options.whole_vocabulary != 0)
        dropped_mass_ = 0;
    else if (dropped_mass_ == 0 && mixture_.precision != VisionPrecision::fp32)
        dropped_mass_ = DEFAULT_DROPPED_MASS;
    workers_ = std::vector<Worker>(engine_.threads());
}

void Projector::run(const TowerCall &call) {
    const size_t rows = call.count * tokens();
    const size_t per_block = std::min(VocabularyBlock::ROWS, BlockPlan(rows, engine_.threads()).rows);
    const size_t blocks = (rows + per_block - 1) / per_block;
    for (Worker &worker : workers_) {
        worker.block.reserve(window(), VISION_PANEL);
        worker.rows.reserve(VocabularyBlock::ROWS * round_up(window(), VISION_PANEL) + VISION_PANEL);
        worker.vocabulary.reserve(entries_);
        worker.output.reserve(VocabularyBlock::ROWS * mixture_.padded_outputs());
    }
    counters_.reset();
    StageCheck check(file_.tower());
    report(call, 0, 1);
    engine_.run(blocks, [&](size_t worker, size_t index) {
        const size_t first = index * per_block;
        project(workers_[worker], call, first, std::min(per_block, rows - first), check);
    });
    check.require(stage_name);
    report(call, 1, 1);
}

// Three by three patches around a token, with a stride of two and zeros outside of the tile.
void Projector::copy_window(const float *tile, size_t token, float *row) const {
    const size_t top = 2 * (token / token_side()), left = 2 * (token % token_side());
    for (size_t y = 0; y < 3; ++y)
        for (size_t x = 0; x < 3; ++x) {
            float *target = row + (3 * y + x) * channels_;
            const size_t patch_y = top + y - 1, patch_x = left + x - 1; // beyond `side` where it is negative
            if (patch_y < side_ && patch_x < side_)
                std::copy_n(tile + (patch_y * side_ + patch_x) * channels_, channels_, target);
            else
                std::fill_n(target, channels_, 0.0f);
        }
}

void Projector::project(Worker &worker, const TowerCall &call, size_t first, size_t count, StageCheck &check) {
    const size_t window_stride = round_up(window(), VISION_PANEL), middle = convolution_.padded_outputs();
    for (size_t row = 0; row < count; ++row)
        copy_window(call.input + (first + row) / tokens() * input_floats(), (first + row) % tokens(),
                    worker.rows.data() + row * window_stride);
    check.note(worker.block.pack(engine_, convolution_, worker.rows.data(), window_stride, count), FEATURES);
    worker.block.multiply(engine_, convolution_, worker.rows.data(), middle, Finish::store);
    check.note(worker.block.pack(engine_, scores_, worker.rows.data(), middle, count), CONVOLUTION);
    worker.block.multiply(engine_, scores_, worker.vocabulary.scores(), VocabularyBlock::stride(entries_),
                          Finish::store);
    check.note(worker.vocabulary.mix(engine_, norm_, NORM_EPSILON, mixture_, count, dropped_mass_, worker.output.data(),
                                     counters_),
               VOCABULARY);
    for (size_t row = 0; row < count; ++row) {
        const float *token = worker.output.data() + row * mixture_.padded_outputs();
        check.note(std::all_of(token, token + output_, [](float value) { return std::isfinite(value); }), VOCABULARY);
        std::copy_n(token, output_, call.output + (first + row) * output_);
    }
}

double Projector::operations(size_t tiles) const {
    const auto rows = static_cast<double>(tiles * tokens());
    return 2 * rows * static_cast<double>(channels_ * window() + entries_ * (channels_ + output_));
}

Saturating Projector::scratch_bytes(Saturating) const {
    const size_t rows = VocabularyBlock::ROWS * (round_up(window(), VISION_PANEL) + mixture_.padded_outputs());
    return workers_.size() * (RowBlock::bytes(window(), VISION_PANEL) + VocabularyBlock::bytes(entries_) + 4 * rows);
}

} // namespace v2e
