#include "vision/conv_projector.hpp"

#include <algorithm>

namespace v2e {
namespace {

enum Stage : int { FEATURES, MLP, CONVOLUTION };

constexpr size_t WORD_BYTES = sizeof(uint32_t);
constexpr size_t SCRATCH_WORDS = VISION_BLOCK_WORDS * VISION_PANEL;

std::string stage_name(int stage) {
    static const char *const NAMES[] = {"the features", "the MLP", "the convolution"};
    return NAMES[stage];
}

} // namespace

ConvProjector::ConvProjector(TowerFile file, const TowerOptions &options)
    : Projector(std::move(file), options), mlp_(file_, channels_, file_.size("mlp_hidden_dim", MOST_ENTRIES), output_),
      convolution_(file_.matrix("convolution", output_, TAPS * output_)) {
    if (convolution_.precision == VisionPrecision::int8)
        file_.refuse("the matrix 'convolution' must be bf16 or fp32: its taps are multiplied one by one");
    if (output_ % values_in_word(convolution_.precision) != 0)
        file_.refuse("its convolution has an odd number of channels");
    workers_ = std::vector<Worker>(engine_.threads());
}

void ConvProjector::run(const TowerCall &call) {
    mlp_.reserve(patches(), engine_.threads());
    outside_.reserve(outside_words());
    std::fill_n(outside_.data(), outside_words(), 0u);
    for (Worker &worker : workers_) {
        worker.words.reserve(worker_words());
        worker.sums.reserve(worker_floats());
        worker.scratch.reserve(SCRATCH_WORDS);
    }
    for (size_t tile = 0; tile < call.count; ++tile) {
        report(call, tile, call.count);
        const float *features = call.input + tile * input_floats();
        StageCheck check(file_.tower());
        const auto patch = [&](float *buffer, size_t index) {
            std::copy_n(features + index * channels_, channels_, buffer);
            return buffer;
        };
        mlp_.run(engine_, patches(), patch, check, FEATURES);
        convolve(mlp_.pack(engine_, engine_.arithmetic(convolution_), patches(), check, MLP),
                 call.output + tile * tokens() * output_, check);
        check.require(stage_name);
    }
    report(call, call.count, call.count);
}

// Neighbouring windows share their patches, so no window is ever put together: the convolution is a sum of nine
// products, one for each tap, and each gathers the patches that lie under it.
void ConvProjector::convolve(const SharedRows &patches, float *output, StageCheck &check) {
    const ProductPlan cut = plan();
    const size_t stride = convolution_.padded_outputs();
    engine_.run(cut.tasks(), [&](size_t index, size_t number) {
        Worker &worker = workers_[index];
        const size_t token = number % cut.row_blocks * cut.rows, panel = number / cut.row_blocks * cut.panels;
        const Task task{token, std::min(cut.rows, tokens() - token), panel,
                        std::min(panel + cut.panels, convolution_.panel_count())};
        for (size_t tap = 0; tap < TAPS && !engine_.stop().stops(); ++tap) {
            gather(worker, patches, task, tap);
            add_tap(worker, task, tap);
        }
        const size_t first = task.first_panel * VISION_PANEL;
        const size_t count = std::min(task.last_panel * VISION_PANEL, output_) - first;
        for (size_t row = 0; row < task.tokens; ++row)
            check.note(copy_token(worker.sums.data() + row * stride + first, count,
                                  output + (task.first_token + row) * output_ + first),
                       CONVOLUTION);
    });
}

void ConvProjector::gather(Worker &worker, const SharedRows &patches, const Task &task, size_t tap) const {
    const VisionArithmetic &arithmetic = engine_.arithmetic(convolution_);
    for (size_t row = 0; row < task.tokens; ++row) {
        const size_t patch = patch_under(task.first_token + row, tap);
        const uint32_t *words = patch == OUTSIDE ? outside_.data() : patches.words(patch);
        place_row(arithmetic, words, output_, row, task.tokens, worker.words.data());
    }
}

void ConvProjector::add_tap(Worker &worker, const Task &task, size_t tap) const {
    const VisionArithmetic &arithmetic = engine_.arithmetic(convolution_);
    const size_t per_word = values_in_word(convolution_.precision), stride = convolution_.padded_outputs();
    const VisionRows rows{worker.words.data(), 0, nullptr, nullptr, task.tokens, &engine_.stop()};
    for (size_t panel = task.first_panel; panel < task.last_panel; ++panel) {
        // The columns of one tap lie together in a panel.
        const size_t words = convolution_.columns / per_word * panel + output_ / per_word * tap;
        VisionPanels columns = convolution_.panels;
        columns.weight += words * VISION_PANEL * WORD_BYTES;
        columns.bias = tap == 0 && columns.bias != nullptr ? columns.bias + panel * VISION_PANEL : nullptr;
        columns.columns = output_;
        arithmetic.multiply(columns, 0, 1, rows,
                            {worker.sums.data() + panel * VISION_PANEL, stride, tap == 0 ? Finish::store : Finish::add},
                            worker.scratch.data());
    }
}

size_t ConvProjector::worker_words() const {
    return round_up(plan().rows, VISION_MOST_ROWS) * round_up(output_, VISION_BLOCK_WORDS);
}

double ConvProjector::operations(size_t tiles) const {
    const auto products = static_cast<double>(tokens() * TAPS * output_) * static_cast<double>(output_);
    return static_cast<double>(tiles) * (mlp_.operations(patches()) + 2 * products);
}

Saturating ConvProjector::scratch_bytes(Saturating) const {
    return mlp_.bytes(patches(), engine_.threads()) + outside_words() * WORD_BYTES +
           workers_.size() * WORD_BYTES * (Saturating(worker_words()) + worker_floats() + SCRATCH_WORDS);
}

} // namespace v2e
