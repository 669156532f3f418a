// The few tokens of a step that can still be chosen, which an executor finds where the logits are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace v2e {

struct Candidate {
    float logit;
    int32_t token;
};

// Asks for the candidates with the largest logits after the repetition penalty. Of equal logits the lowest token comes
// first.
struct Narrowing {
    static constexpr size_t MOST = 1024; // candidates

    size_t count;
    float penalty;                     // 1: none
    const std::vector<uint32_t> &seen; // bit token % 32 of word token / 32: the token is penalised
};

} // namespace v2e
