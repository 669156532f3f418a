#include "vision/ovis_projector.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr float DEFAULT_DROPPED_MASS = 1e-4f;

enum Stage : int { FEATURES, CONVOLUTION, VOCABULARY };

std::string stage_name(int stage) {
    static const char *const NAMES[] = {"the features", "the convolution", "the visual vocabulary"};
    return NAMES[stage];
}

TokenizeFunction read_function(const TowerFile &file) {
    const std::string name = file.text("tokenize_function");
    if (name == "softmax")
        return TokenizeFunction::softmax;
    if (name == "st_argmax")
        return TokenizeFunction::st_argmax;
    file.refuse("its tokenize_function is '" + shown(name) + "', which is unknown to this release");
}

// What may be left out of a token.
float read_dropped_mass(const TowerOptions &options, VisionPrecision mixture) {
    if (!(options.dropped_mass >= 0 && options.dropped_mass < 0.5f))
        fail(V2E_ERROR_INPUT, "dropped_mass is %g; it must be at least 0 and below 0.5.",
             static_cast<double>(options.dropped_mass));
    if (options.whole_vocabulary != 0)
        return 0;
    // fp32 is there for exact results
    if (options.dropped_mass == 0 && mixture != VisionPrecision::fp32)
        return DEFAULT_DROPPED_MASS;
    return options.dropped_mass;
}

} // namespace

OvisProjector::OvisProjector(TowerFile file, const TowerOptions &options)
    : Projector(std::move(file), options), entries_(file_.size("mlp_hidden_dim", MOST_ENTRIES)),
      convolution_(file_.matrix("convolution", channels_, window())),
      scores_(file_.matrix("vocabulary", entries_, channels_)),
      vocabulary_{read_function(file_), file_.norm("vocabulary_norm", entries_),
                  file_.matrix("mixture", output_, entries_), 0} {
    const VisionPrecision mixture = vocabulary_.mixture.precision;
    if (mixture == VisionPrecision::int8)
        file_.refuse("the matrix 'mixture' must be bf16 or fp32: int8 has no steps for small probabilities");
    vocabulary_.dropped_mass = read_dropped_mass(options, mixture);
    workers_ = std::vector<Worker>(engine_.threads());
}

void OvisProjector::run(const TowerCall &call) {
    const size_t rows = call.count * tokens();
    const size_t per_block = std::min(VocabularyBlock::ROWS, BlockPlan(rows, engine_.threads()).rows);
    const size_t blocks = (rows + per_block - 1) / per_block;
    for (Worker &worker : workers_) {
        worker.block.reserve(window(), VISION_PANEL);
        worker.rows.reserve(VocabularyBlock::ROWS * round_up(window(), VISION_PANEL) + VISION_PANEL);
        worker.vocabulary.reserve(entries_, vocabulary_.function);
        worker.output.reserve(VocabularyBlock::ROWS * vocabulary_.mixture.padded_outputs());
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

void OvisProjector::copy_window(const float *tile, size_t token, float *row) const {
    for (size_t tap = 0; tap < TAPS; ++tap) {
        float *target = row + tap * channels_;
        if (const size_t patch = patch_under(token, tap); patch != OUTSIDE)
            std::copy_n(tile + patch * channels_, channels_, target);
        else
            std::fill_n(target, channels_, 0.0f);
    }
}

void OvisProjector::project(Worker &worker, const TowerCall &call, size_t first, size_t count, StageCheck &check) {
    const size_t window_stride = round_up(window(), VISION_PANEL), middle = convolution_.padded_outputs();
    for (size_t row = 0; row < count; ++row)
        copy_window(call.input + (first + row) / tokens() * input_floats(), (first + row) % tokens(),
                    worker.rows.data() + row * window_stride);
    check.note(worker.block.pack(engine_, convolution_, worker.rows.data(), window_stride, count), FEATURES);
    worker.block.multiply(engine_, convolution_, worker.rows.data(), middle, Finish::store);
    check.note(worker.block.pack(engine_, scores_, worker.rows.data(), middle, count), CONVOLUTION);
    worker.block.multiply(engine_, scores_, worker.vocabulary.scores(), VocabularyBlock::stride(entries_),
                          Finish::store);
    check.note(worker.vocabulary.make_tokens(engine_, vocabulary_, count, worker.output.data(), counters_), VOCABULARY);
    for (size_t row = 0; row < count; ++row)
        check.note(copy_token(worker.output.data() + row * vocabulary_.mixture.padded_outputs(), output_,
                              call.output + (first + row) * output_),
                   VOCABULARY);
}

double OvisProjector::operations(size_t tiles) const {
    const auto rows = static_cast<double>(tiles * tokens());
    const size_t mixed = vocabulary_.function == TokenizeFunction::softmax ? output_ : 0;
    return 2 * rows * static_cast<double>(channels_ * window() + entries_ * (channels_ + mixed));
}

Saturating OvisProjector::scratch_bytes(Saturating) const {
    const size_t rows =
        VocabularyBlock::ROWS * (round_up(window(), VISION_PANEL) + vocabulary_.mixture.padded_outputs()) +
        VISION_PANEL;
    return workers_.size() * (RowBlock::bytes(window(), VISION_PANEL) +
                              VocabularyBlock::bytes(entries_, vocabulary_.function) + sizeof(float) * rows);
}

} // namespace v2e
