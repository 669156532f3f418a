#include "generation/draft_plan.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr double NEWEST_TOKEN = 0.1;     // weight of the newest token in its hit rate
constexpr double FASTER_STEP = 0.5;      // weight of the newest step in the times, when it was faster than they are
constexpr double SLOWER_STEP = 0.2;      // and when it was slower: what disturbs a machine never makes it fast
constexpr double LEAST_GAIN = 1.05;      // that a draft must promise
constexpr double ROW_COST = 0.25;        // before any was measured
constexpr double LEAST_ROW_COST = 0.005; // a cheaper one is the clock's error
constexpr double MOST_ROW_COST = 1.5;    // a dearer one is a disturbance of the machine
constexpr double PROMISING = 0.5;        // hit rate from which refused drafts count
constexpr size_t PATIENCE = 64;          // refused drafts before the cost is measured again

void follow(double &known, double newest) {
    known += (newest < known ? FASTER_STEP : SLOWER_STEP) * (newest - known);
}

} // namespace

// 2, 3, 4 to 5, 6 to 9, 10 to 17 and more agreeing tokens.
size_t DraftPlan::level(size_t agreeing) {
    size_t result = 0;
    for (const size_t least : {3, 4, 6, 10, 18})
        result += agreeing >= least ? 1 : 0;
    return result;
}

// A length that was never tried costs as much a token as the next shorter one that was, or else as the next longer one.
double DraftPlan::row_cost(size_t index) const {
    for (size_t i = index + 1; i-- > 0;)
        if (row_costs_[i] > 0.0)
            return row_costs_[i];
    for (size_t i = index + 1; i < LENGTHS.size(); ++i)
        if (row_costs_[i] > 0.0)
            return row_costs_[i];
    return ROW_COST;
}

size_t DraftPlan::length(size_t agreeing, size_t most) {
    if (agreeing == 0 || most == 0 || step_ms_ == 0.0)
        return 0;
    size_t best = 0, drafted = 0;
    double best_gain = LEAST_GAIN, all_right = 1.0, tokens = 1.0; // all are averages of a step
    for (size_t index = 0; index < LENGTHS.size() && LENGTHS[index] <= most; ++index) {
        for (; drafted < LENGTHS[index]; ++drafted) {
            all_right *= hit_rates_[level(agreeing + drafted)];
            tokens += all_right;
        }
        const double gain = tokens / (1.0 + row_cost(index) * static_cast<double>(drafted));
        if (gain > best_gain) {
            best_gain = gain;
            best = LENGTHS[index];
        }
    }
    if (best > 0 || hit_rates_[level(agreeing)] < PROMISING)
        return best;
    if (++refused_ < PATIENCE)
        return 0;
    refused_ = 0;
    return 1;
}

void DraftPlan::note_token(size_t agreeing, bool right) {
    double &rate = hit_rates_[level(agreeing)];
    rate += NEWEST_TOKEN * ((right ? 1.0 : 0.0) - rate);
}

void DraftPlan::note_step(size_t drafted, double elapsed_ms) {
    if (step_ms_ == 0.0) {
        step_ms_ = drafted == 0 ? elapsed_ms : 0.0;
        return;
    }
    if (drafted == 0) {
        follow(step_ms_, elapsed_ms);
        return;
    }
    const double measured = (elapsed_ms / step_ms_ - 1.0) / static_cast<double>(drafted);
    const auto longer = std::upper_bound(LENGTHS.begin(), LENGTHS.end(), drafted);
    const size_t index = static_cast<size_t>(longer - LENGTHS.begin()) - 1;
    row_costs_[index] = row_cost(index);
    follow(row_costs_[index], std::clamp(measured, LEAST_ROW_COST, MOST_ROW_COST));
}

} // namespace v2e
