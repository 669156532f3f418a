#include "vision/vocabulary.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace v2e {
namespace {

constexpr float NORM_EPSILON = 1e-5f;
constexpr float FIRST_STEP = 4.0f;
constexpr int MOST_STEPS = 16;
constexpr size_t PADDING = 2 * VISION_PANEL;
constexpr int BF16_SHIFT = 16; // bf16 is the upper half of a float

// One column of a matrix in bf16 or fp32.
void copy_column(const TowerMatrix &matrix, size_t column, float *output) {
    const size_t per_word = values_in_word(matrix.precision), words = (matrix.columns + per_word - 1) / per_word;
    const auto *stored = reinterpret_cast<const uint32_t *>(matrix.panels.weight);
    const auto shift = static_cast<int>(column % per_word) * BF16_SHIFT;
    for (size_t row = 0; row < matrix.outputs; ++row) {
        const size_t panel = row / VISION_PANEL, lane = row % VISION_PANEL;
        const uint32_t word = stored[(panel * words + column / per_word) * VISION_PANEL + lane];
        output[row] = std::bit_cast<float>(per_word == 1 ? word : word >> shift << BF16_SHIFT);
    }
}

} // namespace

void VocabularyCounters::reset() {
    largest_dropped_ = 0;
    rows_ = kept_ = multiplied_ = 0;
}

void VocabularyCounters::add(double dropped, size_t kept, size_t multiplied) {
    double largest = largest_dropped_.load(std::memory_order_relaxed);
    while (dropped > largest && !largest_dropped_.compare_exchange_weak(largest, dropped, std::memory_order_relaxed)) {
    }
    rows_.fetch_add(1, std::memory_order_relaxed);
    kept_.fetch_add(kept, std::memory_order_relaxed);
    multiplied_.fetch_add(multiplied, std::memory_order_relaxed);
}

void VocabularyBlock::reserve(size_t entries, TokenizeFunction function) {
    const size_t padded = round_up(entries, PADDING), rows = round_up(ROWS, VISION_MOST_ROWS);
    scores_.reserve(rows * stride(entries) + PADDING);
    if (function == TokenizeFunction::st_argmax)
        return;
    words_.reserve(rows * padded);
    row_words_.reserve(padded);
    picks_.reserve(padded);
    wanted_.reserve(padded);
    gathered_.reserve(padded + PADDING);
    scratch_.reserve(VISION_BLOCK_WORDS * VISION_PANEL);
}

size_t VocabularyBlock::bytes(size_t entries, TokenizeFunction function) {
    const size_t padded = round_up(entries, PADDING), rows = round_up(ROWS, VISION_MOST_ROWS);
    const size_t scores = sizeof(float) * (rows * stride(entries) + PADDING);
    if (function == TokenizeFunction::st_argmax)
        return scores;
    return scores + padded + sizeof(float) * (padded * (rows + 3) + PADDING + VISION_BLOCK_WORDS * VISION_PANEL);
}

// The largest of some limits below which the probabilities sum up to no more than may be dropped. The smallest one
// keeps that promise whatever the row is: no entry below it has more than its even share.
float VocabularyBlock::choose_limit(const VisionKernels &kernels, const float *row, size_t entries, float total,
                                    float dropped_mass) const {
    const float allowed = dropped_mass * total;
    float limit = allowed / static_cast<float>(entries);
    for (int step = 0; step < MOST_STEPS; ++step) {
        const float next = limit * FIRST_STEP;
        if (kernels.sum_below(row, entries, next) > allowed)
            break;
        limit = next;
    }
    return limit;
}

bool VocabularyBlock::make_tokens(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
                                  VocabularyCounters &counters) {
    return vocabulary.function == TokenizeFunction::softmax ? mix(engine, vocabulary, count, output, counters)
                                                            : choose(engine, vocabulary, count, output, counters);
}

float *VocabularyBlock::normed_row(const TowerEngine &engine, const Vocabulary &vocabulary, size_t row) {
    const size_t entries = vocabulary.mixture.columns;
    const TowerNorm &norm = vocabulary.norm;
    float *scores = scores_.data() + row * stride(entries);
    return engine.kernels().layer_norm(scores, entries, norm.weight, norm.bias, NORM_EPSILON, scores) ? scores
                                                                                                      : nullptr;
}

// The straight-through estimator (Bengio et al. 2013, arXiv 1308.3432) without its gradient. The reference multiplies
// (one-hot - scores) + scores with all entries, which is this entry up to the rounding of a one.
bool VocabularyBlock::choose(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
                             VocabularyCounters &counters) {
    const TowerMatrix &mixture = vocabulary.mixture;
    for (size_t row = 0; row < count && !engine.stop().stops(); ++row) {
        const float *scores = normed_row(engine, vocabulary, row);
        if (scores == nullptr)
            return false;
        const auto entry = static_cast<size_t>(std::max_element(scores, scores + mixture.columns) - scores);
        copy_column(mixture, entry, output + row * mixture.padded_outputs());
        counters.add(0, 1, 1);
    }
    return true;
}

bool VocabularyBlock::mix(const TowerEngine &engine, const Vocabulary &vocabulary, size_t count, float *output,
                          VocabularyCounters &counters) {
    const VisionKernels &kernels = engine.kernels();
    const TowerMatrix &mixture = vocabulary.mixture;
    const VisionArithmetic &arithmetic = engine.arithmetic(mixture);
    const size_t per_word = values_in_word(mixture.precision), entries = mixture.columns, row_stride = stride(entries),
                 words = (entries + per_word - 1) / per_word;
    std::memset(wanted_.data(), 0, words);
    float limits[ROWS], totals[ROWS];
    for (size_t row = 0; row < count && !engine.stop().stops(); ++row) {
        float *scores = normed_row(engine, vocabulary, row);
        if (scores == nullptr)
            return false;
        totals[row] = kernels.soften_row(scores, entries);
        limits[row] = choose_limit(kernels, scores, entries, totals[row], vocabulary.dropped_mass);
        for (size_t entry = 0; entry < entries; ++entry)
            wanted_[entry / per_word] |= static_cast<uint8_t>(scores[entry] >= limits[row]);
    }
    size_t picked = 0;
    for (size_t word = 0; word < words; ++word)
        if (wanted_[word] != 0)
            picks_[picked++] = static_cast<uint32_t>(word);
    // Multiplying all of it in order is faster than nearly all of it.
    const bool all = picked > words - words / 8;
    if (all)
        picked = words;

    for (size_t row = 0; row < count; ++row) {
        const float *probabilities = scores_.data() + row * row_stride;
        const float factor = 1.0f / totals[row];
        float dropped = 0;
        size_t kept = 0;
        std::memset(gathered_.data() + picked * per_word, 0, PADDING * sizeof(float));
        for (size_t i = 0; i < picked; ++i)
            for (size_t j = 0; j < per_word; ++j) {
                const size_t entry = (all ? i : picks_[i]) * per_word + j;
                const float value = entry < entries ? probabilities[entry] : 0.0f;
                gathered_[i * per_word + j] = value * factor;
                kept += value >= limits[row];
            }
        if (!all)
            dropped = kernels.sum_below(probabilities, entries, limits[row]) * factor; // no more than this
        counters.add(dropped, kept, picked * per_word);
        float scale;
        int32_t zero;
        if (!arithmetic.pack_row(gathered_.data(), picked * per_word, row_words_.data(), &scale, &zero))
            return false;
        place_row(arithmetic, row_words_.data(), picked * per_word, row, count, words_.data());
    }
    VisionPanels panels = mixture.panels;
    panels.picks = all ? nullptr : picks_.data();
    panels.pick_count = picked;
    arithmetic.multiply(panels, 0, mixture.panel_count(), {words_.data(), 0, nullptr, nullptr, count, &engine.stop()},
                        {output, mixture.padded_outputs(), Finish::store}, scratch_.data());
    return true;
}

} // namespace v2e
