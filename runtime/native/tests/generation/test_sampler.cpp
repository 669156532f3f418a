// The choice of a token for logits and options at the edge of what is allowed, and beyond it.
#include "generation/sampler.hpp"
#include "tests/check.hpp"

#include <cfloat>
#include <limits>
#include <vector>

using namespace v2e;

namespace {

v2e_generate_options sampled() {
    v2e_generate_options options{};
    options.struct_size = sizeof options;
    options.temperature = 1.0f;
    return options;
}

int32_t choose(const v2e_generate_options &options, const std::vector<float> &logits, std::vector<int32_t> seen = {}) {
    Sampler sampler(options, logits.size());
    for (const int32_t token : seen)
        sampler.remember(token);
    return sampler.choose(logits.data());
}

} // namespace

TEST_CASE("the sampler refuses logits that are no numbers") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
        for (const float temperature : {0.0f, 1.0f})
            for (const size_t place : {0u, 8u, 38u}) {
                std::vector<float> logits(39, 1.0f);
                logits[place] = bad;
                v2e_generate_options options = sampled();
                options.temperature = temperature;
                options.top_p = 0.9f;
                CHECK_FAILS(V2E_ERROR_NUMERIC, "NaN or an infinity", choose(options, logits));
                const Candidate candidates[] = {{1.0f, 3}, {bad, 4}};
                Sampler sampler(options, logits.size());
                if (bad != bad)
                    CHECK_FAILS(V2E_ERROR_NUMERIC, "NaN or an infinity", sampler.choose_narrowed(candidates, 2));
                else
                    CHECK(sampler.choose_narrowed(candidates, 2) == (bad > 0 ? 4 : 3));
            }
}

TEST_CASE("the sampler keeps the best candidate whatever the options are") {
    const std::vector<float> logits = {-FLT_MAX, 0.0f, FLT_MAX, -3.0f, 2.0f};
    for (const float temperature : {FLT_TRUE_MIN, 1e-38f, 1.0f, 1e6f})
        for (const float penalty : {0.0f, 1e-6f, 1.0f, 1e6f})
            for (const float share : {FLT_TRUE_MIN, 1e-30f, 0.9f, 1.0f}) {
                v2e_generate_options options = sampled();
                options.temperature = temperature;
                options.repetition_penalty = penalty;
                options.top_p = share;
                options.min_p = 1.0f;
                const int32_t token = choose(options, logits, {0, 2, 3});
                CHECK(token >= 0);
                CHECK(token < 5);
                CHECK((token == 2 || penalty > 1.0f));
            }
}

TEST_CASE("the sampler refuses options out of range") {
    const auto refuses = [](const char *words, auto &&change) {
        v2e_generate_options options = sampled();
        change(options);
        CHECK_FAILS(V2E_ERROR_INPUT, words, Sampler(options, 5));
    };
    for (const float penalty : {1e-38f, 9e-7f, 2e6f, -1.0f, std::numeric_limits<float>::quiet_NaN()})
        refuses("repetition_penalty", [&](v2e_generate_options &options) { options.repetition_penalty = penalty; });
    for (const float value : {-1.0f, 2e6f, std::numeric_limits<float>::infinity()})
        refuses("temperature", [&](v2e_generate_options &options) { options.temperature = value; });
    refuses("top_p", [](v2e_generate_options &options) { options.top_p = 1.5f; });
    refuses("min_p", [](v2e_generate_options &options) { options.min_p = -0.5f; });
    refuses("stop_token_count", [](v2e_generate_options &options) { options.stop_token_count = SIZE_MAX; });
    for (const size_t size : {size_t{0}, size_t{1} << 31, SIZE_MAX})
        CHECK_FAILS(V2E_ERROR_INPUT, "vocabulary_size", Sampler(sampled(), size));
}
