#include "vision/vocabulary.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace v2e {
namespace {

constexpr float FIRST_STEP = 4.0f;
constexpr int MOST_STEPS = 16;
constexpr size_t PADDING = 2 * VISION_PANEL;

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

void VocabularyBlock::reserve(size_t entries) {
    const size_t padded = round_up(entries, PADDING), rows = round_up(ROWS, VISION_MOST_ROWS);
    scores_.reserve(rows * stride(entries) + PADDING);
    words_.reserve(rows * padded);
    row_words_.reserve(padded);
    picks_.reserve(padded);
    wanted_.reserve(padded);
    gathered_.reserve(padded + PADDING);
    scratch_.reserve(VISION_BLOCK_WORDS * VISION_PANEL);
}

size_t VocabularyBlock::bytes(size_t entries) {
    const size_t padded = round_up(entries, PADDING), rows = round_up(ROWS, VISION_MOST_ROWS);
    return sizeof(float) * (padded * (2 * rows + 4) + VISION_BLOCK_WORDS * VISION_PANEL);
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

bool VocabularyBlock::mix(const TowerEngine &engine, const TowerNorm &norm, float epsilon, const TowerMatrix &mixture,
                          size_t count, float dropped_mass, float *output, VocabularyCounters &counters) {
    const VisionKernels &kernels = engine.kernels();
    const VisionArithmetic &arithmetic = engine.arithmetic(mixture);
    const size_t per_word = values_in_word(mixture.precision), entries = mixture.columns, row_stride = stride(entries),
                 words = (entries + per_word - 1) / per_word;
    std::memset(wanted_.data(), 0, words);
    float limits[ROWS], totals[ROWS];
    for (size_t row = 0; row < count && !engine.stop().stops(); ++row) {
        float *scores = scores_.data() + row * row_stride;
        if (!kernels.layer_norm(scores, entries, norm.weight, norm.bias, epsilon, scores))
            return false;
        totals[row] = kernels.soften_row(scores, entries);
        limits[row] = choose_limit(kernels, scores, entries, totals[row], dropped_mass);
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
