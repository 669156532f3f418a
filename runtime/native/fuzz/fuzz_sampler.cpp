// The choice of a token: 40 bytes of options, then logits as they are. A chosen token is one that there is; ordinary
// numbers never fail; and the few candidates that a GPU would leave give the same token as all of them.
#include "fuzz/fuzz.hpp"
#include "generation/sampler.hpp"

#include <cmath>
#include <vector>

namespace {

bool ordinary(const v2e_generate_options &options, const std::vector<float> &logits) {
    const auto between = [](float value, float least, float most) { return value >= least && value <= most; };
    return (options.temperature == 0.0f || between(options.temperature, 0.01f, 100.0f)) &&
           between(options.top_p, 0.0f, 1.0f) && between(options.min_p, 0.0f, 1.0f) &&
           (options.repetition_penalty == 0.0f || between(options.repetition_penalty, 0.5f, 2.0f)) &&
           std::all_of(logits.begin(), logits.end(), [](float logit) { return std::fabs(logit) < 1e30f; });
}

// Chooses as session.cpp does from the candidates of a GPU.
int32_t choose_from_few(const v2e_generate_options &options, const std::vector<float> &logits,
                        const std::vector<int32_t> &seen, int32_t otherwise) {
    v2e::Sampler sampler(options, logits.size());
    for (const int32_t token : seen)
        sampler.remember(token);
    const v2e::Narrowing narrowing = sampler.narrowing();
    if (narrowing.count == 0)
        return otherwise;
    std::vector<v2e::Candidate> candidates;
    for (size_t i = 0; i < logits.size(); ++i) {
        const bool penalised = (narrowing.seen[i / 32] >> i % 32 & 1u) != 0;
        const float logit = logits[i], penalty = narrowing.penalty;
        candidates.push_back({!penalised     ? logit
                              : logit > 0.0f ? logit / penalty
                                             : logit * penalty,
                              static_cast<int32_t>(i)});
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const v2e::Candidate &a, const v2e::Candidate &b) { return a.logit > b.logit; });
    return sampler.choose_narrowed(candidates.data(), std::min(narrowing.count, candidates.size()));
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz::Input input(data, size);
    v2e_generate_options options{};
    options.struct_size = sizeof options;
    options.temperature = input.value<float>();
    options.top_p = input.value<float>();
    options.min_p = input.value<float>();
    options.repetition_penalty = input.value<float>();
    options.top_k = input.value<uint32_t>();
    options.seed = input.value<uint64_t>();
    uint8_t bytes[12];
    for (uint8_t &byte : bytes)
        byte = input.byte();
    std::vector<float> logits(std::clamp<size_t>(input.rest().size() / sizeof(float), 1, 2000));
    for (float &logit : logits)
        logit = input.value<float>();
    std::vector<int32_t> seen(bytes, bytes + std::min<size_t>(bytes[0] % 12, logits.size()));
    for (int32_t &token : seen)
        token %= static_cast<int32_t>(logits.size());

    int32_t token = -1;
    const v2e_status status = fuzz::seen(v2e::guard([&] {
        v2e::Sampler sampler(options, logits.size());
        for (const int32_t one : seen)
            sampler.remember(one);
        token = sampler.choose(logits.data());
    }));
    MUST(status != V2E_OK || (token >= 0 && static_cast<size_t>(token) < logits.size()));
    if (ordinary(options, logits)) {
        MUST(status == V2E_OK);
        MUST(choose_from_few(options, logits, seen, token) == token);
    }
    return 0;
}
