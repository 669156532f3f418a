// Candidates that the emulated device finds are those of the host's sampler, bit for bit.
#include "base/half.hpp"
#include "cuda/cuda_narrowing.hpp"
#include "generation/sampler.hpp"
#include "tests/check.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace v2e;

namespace {

// The fake driver. It has its own kernels, so that any file of kernels will do.
cuda::Device &device() {
    static const std::unique_ptr<cuda::Device> opened([] {
        const std::string directory = V2E_FAKE_DRIVER ".kernels";
        std::filesystem::create_directories(directory);
        std::ofstream(directory + "/valley2.fatbin", std::ios::binary) << "\x50\xed\x55\xba" << std::string(60, '\0');
        setenv("VALLEY2_CUDA_DRIVER", V2E_FAKE_DRIVER, 1);
        setenv("VALLEY2_CUDA_KERNELS", directory.c_str(), 1);
        std::string reason;
        cuda::Device *device = cuda::Device::open(reason);
        if (device == nullptr)
            fail(V2E_ERROR_INPUT, "No emulated device: %s.", reason.c_str());
        return device;
    }());
    return *opened;
}

// Logits in the memory of the device.
class OnDevice {
  public:
    explicit OnDevice(const std::vector<float> &logits)
        : current_(device()), queue_(device()), count_(logits.size()), logits_(device(), count_ * sizeof(float)) {
        logits_.fill(logits.data(), count_ * sizeof(float));
        narrowing_.reserve(device(), count_);
    }
    std::vector<Candidate> narrow(const Narrowing &narrowing) {
        std::vector<Candidate> candidates(narrowing.count);
        narrowing_.run(device(), queue_, logits_.as<float>(), count_, narrowing, candidates.data());
        return candidates;
    }

  private:
    cuda::CurrentContext current_;
    cuda::Queue queue_;
    size_t count_;
    cuda::DeviceMemory logits_;
    cuda::CudaNarrowing narrowing_;
};

// Spread widely, or of few values: zeros of both signs, subnormal numbers, and what penalties turn into infinities.
std::vector<float> random_logits(size_t count, bool ties, std::mt19937 &random) {
    const float values[] = {-3.0e38f, -1.5f, -1.0e-40f, -0.0f, 0.0f, 1.0e-45f, 0.5f, 0.50000006f, 3.0e38f};
    std::normal_distribution<float> normal(0.0f, 4.0f);
    std::vector<float> logits(count);
    for (float &logit : logits)
        logit = ties ? values[random() % std::size(values)] : normal(random);
    return logits;
}

std::vector<Candidate> first_candidates(const std::vector<float> &logits, const Narrowing &narrowing) {
    std::vector<Candidate> all;
    for (size_t token = 0; token < logits.size(); ++token) {
        float logit = logits[token];
        if (narrowing.penalty != 1.0f && (narrowing.seen[token / 32] >> token % 32 & 1u) != 0)
            logit = logit > 0.0f ? logit / narrowing.penalty : logit * narrowing.penalty;
        all.push_back({logit, static_cast<int32_t>(token)});
    }
    std::stable_sort(all.begin(), all.end(), [](const Candidate &a, const Candidate &b) { return a.logit > b.logit; });
    all.resize(narrowing.count);
    return all;
}

bool equal(std::vector<Candidate> some, std::vector<Candidate> others) {
    const auto by_token = [](const Candidate &a, const Candidate &b) { return a.token < b.token; };
    std::sort(some.begin(), some.end(), by_token);
    std::sort(others.begin(), others.end(), by_token);
    return std::equal(some.begin(), some.end(), others.begin(), others.end(), [](const auto &a, const auto &b) {
        return a.token == b.token && bits_from_float(a.logit) == bits_from_float(b.logit);
    });
}

v2e_generate_options sampling(float temperature, uint32_t top_k, float penalty, uint64_t seed) {
    v2e_generate_options options{};
    options.temperature = temperature;
    options.top_k = top_k;
    options.repetition_penalty = penalty;
    options.seed = seed;
    return options;
}

TEST_CASE("the device takes the first candidates") {
    std::mt19937 random(5);
    for (const size_t vocabulary : {1u, 2u, 31u, 256u, 331u, 1024u, 20011u})
        for (const bool ties : {false, true}) {
            const std::vector<float> logits = random_logits(vocabulary, ties, random);
            OnDevice on_device(logits);
            std::vector<uint32_t> seen((vocabulary + 31) / 32);
            for (const float penalty : {1.0f, 1.3f, 0.1f})
                for (const size_t count : {size_t{1}, size_t{2}, size_t{40}, vocabulary - 1, vocabulary}) {
                    if (count == 0 || count > std::min(vocabulary, Narrowing::MOST))
                        continue;
                    for (int changes = 0; changes < 3; ++changes) { // and those before stay
                        const size_t token = random() % vocabulary;
                        seen[token / 32] ^= 1u << token % 32;
                    }
                    const Narrowing narrowing{count, penalty, seen};
                    CHECK(equal(on_device.narrow(narrowing), first_candidates(logits, narrowing)));
                }
        }
}

TEST_CASE("narrowed choices are those from all logits") {
    std::mt19937 random(6);
    size_t different = 0;
    for (const bool ties : {false, true})
        for (const float temperature : {0.0f, 0.7f, 5.0f})
            for (const uint32_t top_k : {1u, 7u, 330u})
                for (const float penalty : {0.0f, 1.2f})
                    for (const uint64_t seed : {1u, 2u}) {
                        const std::vector<float> logits = random_logits(331, ties, random);
                        v2e_generate_options options = sampling(temperature, top_k, penalty, seed);
                        options.top_p = seed == 1 ? 0.0f : 0.9f;
                        options.min_p = seed == 1 ? 0.05f : 0.0f;
                        Sampler host(options, logits.size()), narrowed(options, logits.size());
                        OnDevice on_device(logits);
                        int32_t before = -1;
                        for (int step = 0; step < 5; ++step) {
                            const std::vector<Candidate> candidates = on_device.narrow(narrowed.narrowing());
                            const int32_t token = host.choose(logits.data());
                            CHECK(narrowed.choose_narrowed(candidates.data(), candidates.size()) == token);
                            host.remember(token);
                            narrowed.remember(token);
                            different += token != before;
                            before = token;
                        }
                    }
    CHECK(different > 100);
}

TEST_CASE("narrowing is for few candidates") {
    const auto count = [](float temperature, uint32_t top_k, size_t vocabulary) {
        return Sampler(sampling(temperature, top_k, 1.2f, 0), vocabulary).narrowing().count;
    };
    CHECK(count(0.0f, 0, 5000) == 1);
    CHECK(count(0.0f, 2000, 1) == 1);
    CHECK(count(1.0f, 40, 5000) == 40);
    CHECK(count(1.0f, 1024, 5000) == 1024);
    CHECK(count(1.0f, 0, 5000) == 0);
    CHECK(count(1.0f, 1025, 5000) == 0);
    CHECK(count(1.0f, 40, 40) == 0);
}

} // namespace
