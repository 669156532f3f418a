#include "generation/sampler.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace v2e {
namespace {

constexpr float LARGEST = 1e6f; // largest temperature, penalty and inverse of a penalty
constexpr size_t MOST_STOP_TOKENS = 1 << 16;

void require_range(const char *name, float value, float most, float least = 0.0f) {
    if (value == 0.0f || (value >= least && value <= most))
        return;
    fail(V2E_ERROR_INPUT, "%s is %g, but must be %s%g to %g.", name, static_cast<double>(value),
         least > 0.0f ? "0, or from " : "from ", static_cast<double>(least), static_cast<double>(most));
}

bool all_finite(const float *values, size_t count) {
    constexpr uint32_t EXPONENT = 0x7f800000u;
    uint32_t found = 0; // no early end: this way it is one pass of vector instructions
    for (size_t i = 0; i < count; ++i)
        found |= static_cast<uint32_t>((std::bit_cast<uint32_t>(values[i]) & EXPONENT) == EXPONENT);
    return found == 0;
}

[[noreturn]] void refuse_logits() {
    fail(V2E_ERROR_NUMERIC, "The logits have a NaN or an infinity, from which no token can be chosen.");
}

} // namespace

double RandomNumbers::uniform() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state_;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return static_cast<double>(mixed >> 11) * 0x1p-53;
}

Sampler::Sampler(const v2e_generate_options &options, size_t vocabulary_size)
    : options_(options), vocabulary_size_(vocabulary_size), random_(options.seed) {
    if (vocabulary_size == 0 || vocabulary_size > INT32_MAX)
        fail(V2E_ERROR_INPUT, "vocabulary_size is %zu, but must be from 1 to %d.", vocabulary_size, INT32_MAX);
    seen_.resize((vocabulary_size + 31) / 32);
    require_range("temperature", options.temperature, LARGEST);
    require_range("top_p", options.top_p, 1.0f);
    require_range("min_p", options.min_p, 1.0f);
    require_range("repetition_penalty", options.repetition_penalty, LARGEST, 1 / LARGEST);
    if (options.stop_token_count > MOST_STOP_TOKENS)
        fail(V2E_ERROR_INPUT, "stop_token_count is %zu; at most %zu are possible.", options.stop_token_count,
             MOST_STOP_TOKENS);
    if (options.stop_token_count > 0) {
        if (options.stop_tokens == nullptr)
            fail(V2E_ERROR_INPUT, "stop_token_count is %zu but stop_tokens is NULL.", options.stop_token_count);
        stop_tokens_.assign(options.stop_tokens, options.stop_tokens + options.stop_token_count);
    }
    if (!takes_largest())
        candidates_.reserve(vocabulary_size);
}

bool Sampler::before(const Candidate &a, const Candidate &b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

void Sampler::remember(int32_t token) {
    seen_[static_cast<size_t>(token) / 32] |= 1u << token % 32;
}

bool Sampler::is_stop(int32_t token) const {
    return std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end();
}

bool Sampler::takes_largest() const {
    return options_.temperature == 0.0f && !penalises();
}

bool Sampler::penalises() const {
    return options_.repetition_penalty != 0.0f && options_.repetition_penalty != 1.0f;
}

int32_t Sampler::choose(const float *logits) {
    if (!all_finite(logits, vocabulary_size_))
        refuse_logits();
    if (takes_largest())
        return static_cast<int32_t>(std::max_element(logits, logits + vocabulary_size_) - logits);
    candidates_.clear();
    for (size_t token = 0; token < vocabulary_size_; ++token)
        candidates_.push_back({logits[token], static_cast<int32_t>(token)});
    penalise();
    return choose_candidate();
}

Narrowing Sampler::narrowing() const {
    size_t count = options_.temperature == 0.0f ? 1 : options_.top_k;
    if (count > Narrowing::MOST || (options_.temperature != 0.0f && count >= vocabulary_size_))
        count = 0; // with all candidates, they are summed up in another order
    return {count, penalises() ? options_.repetition_penalty : 1.0f, seen_};
}

int32_t Sampler::choose_narrowed(const Candidate *candidates, size_t count) {
    candidates_.assign(candidates, candidates + count);
    for (Candidate &candidate : candidates_)
        candidate.logit = bounded(candidate.logit); // as penalise does; they come from elsewhere
    std::sort(candidates_.begin(), candidates_.end(), before);
    return choose_candidate();
}

int32_t Sampler::choose_candidate() {
    const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), before);
    if (options_.temperature == 0.0f)
        return best.token;
    largest_ = best.logit;
    keep_top_k();
    keep_top_p();
    keep_min_p();
    return draw();
}

// Keskar et al. (2019), "CTRL", section 4.1.
void Sampler::penalise() {
    const float penalty = options_.repetition_penalty;
    if (!penalises())
        return;
    for (Candidate &candidate : candidates_)
        if ((seen_[static_cast<size_t>(candidate.token) / 32] >> candidate.token % 32 & 1u) != 0)
            candidate.logit = bounded(candidate.logit > 0.0f ? candidate.logit / penalty : candidate.logit * penalty);
}

// A penalty may lift a large logit beyond what a float holds.
float Sampler::bounded(float logit) {
    if (std::isnan(logit))
        refuse_logits();
    return std::clamp(logit, -FLT_MAX, FLT_MAX);
}

void Sampler::keep_top_k() {
    if (options_.top_k == 0 || options_.top_k >= candidates_.size())
        return;
    const auto end = candidates_.begin() + static_cast<ptrdiff_t>(options_.top_k);
    std::partial_sort(candidates_.begin(), end, candidates_.end(), before);
    candidates_.erase(end, candidates_.end());
}

// Its probability, relative to the most likely candidate's.
double Sampler::weight(const Candidate &candidate) const {
    const double distance = static_cast<double>(candidate.logit) - static_cast<double>(largest_);
    return std::exp(distance / static_cast<double>(options_.temperature));
}

// Holtzman et al. (2020), "The curious case of neural text degeneration", section 3.1: the fewest candidates, the most
// likely first, whose probabilities reach top_p.
void Sampler::keep_top_p() {
    if (options_.top_p == 0.0f || options_.top_p == 1.0f)
        return;
    double total = 0.0;
    for (const Candidate &candidate : candidates_)
        total += weight(candidate);
    const auto after = [](const Candidate &a, const Candidate &b) { return before(b, a); };
    std::make_heap(candidates_.begin(), candidates_.end(), after);
    auto rest = candidates_.end(); // behind it the candidates that are kept, the last one taken first
    double sum = 0.0;
    do { // the most likely one is always kept
        std::pop_heap(candidates_.begin(), rest, after);
        --rest;
        sum += weight(*rest);
    } while (rest != candidates_.begin() && sum < static_cast<double>(options_.top_p) * total);
    candidates_.erase(candidates_.begin(), rest);
}

// Nguyen et al. (2024), "Turning up the heat: min-p sampling", section 3.
void Sampler::keep_min_p() {
    if (options_.min_p == 0.0f)
        return;
    const auto unlikely = [this](const Candidate &c) { return weight(c) < static_cast<double>(options_.min_p); };
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), unlikely), candidates_.end());
}

int32_t Sampler::draw() {
    double total = 0.0;
    for (const Candidate &candidate : candidates_)
        total += weight(candidate);
    const double target = random_.uniform() * total;
    double sum = 0.0;
    for (const Candidate &candidate : candidates_) {
        sum += weight(candidate);
        if (target < sum)
            return candidate.token;
    }
    return candidates_.back().token;
}

} // namespace v2e
