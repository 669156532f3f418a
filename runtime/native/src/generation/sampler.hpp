// The choice of the next token.
#pragma once

#include "decoder/narrowing.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e {

// A small generator with the same numbers on every machine: SplitMix64 of Steele, Lea and Flood (2014), "Fast
// splittable pseudorandom number generators", figure 17.
class RandomNumbers {
  public:
    explicit RandomNumbers(uint64_t seed) : state_(seed) {}
    double uniform(); // in [0, 1), 53 random bits

  private:
    uint64_t state_;
};

// In the order of transformers: repetition penalty, temperature, top-k, top-p, min-p. Of equal logits the lowest id is
// the first, and top_k takes exactly k.
class Sampler {
  public:
    // Fails with V2E_ERROR_INPUT for options that mean nothing, and for a vocabulary that no token id can count.
    Sampler(const v2e_generate_options &options, size_t vocabulary_size);

    // The token is in the session: it counts for the repetition penalty.
    void remember(int32_t token);
    // logits (vocabulary_size,). Fails with V2E_ERROR_NUMERIC for a NaN or an infinity.
    int32_t choose(const float *logits);
    // The candidates from which choose would choose, where they are few; else none.
    Narrowing narrowing() const;
    // Those candidates, in any order: chooses as from all logits. At most Narrowing::MOST.
    int32_t choose_narrowed(const Candidate *candidates, size_t count);
    bool is_stop(int32_t token) const;
    // Greedy, and the logits as they are.
    bool takes_largest() const;

  private:
    static bool before(const Candidate &a, const Candidate &b);
    static float bounded(float logit);

    bool penalises() const;
    void penalise();
    void keep_top_k();
    void keep_top_p();
    void keep_min_p();
    double weight(const Candidate &candidate) const;
    int32_t choose_candidate();
    int32_t draw();

    v2e_generate_options options_;
    std::vector<int32_t> stop_tokens_;
    size_t vocabulary_size_;
    std::vector<uint32_t> seen_; // see Narrowing
    RandomNumbers random_;
    std::vector<Candidate> candidates_;
    float largest_ = 0.0f;
};

} // namespace v2e
