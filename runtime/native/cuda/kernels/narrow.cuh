// The first candidates of a sampler, of all in the order of logit, then token: a radix selection, digit by digit from
// the top, over keys that no two tokens share. Every launch of v2e_narrow_count counts one digit.
#pragma once

#include "cuda/kernels/choose.cuh"

namespace v2e::cuda::narrow {

constexpr int THREADS = 256;
constexpr int RADIX = 1 << NARROW_BITS;
static_assert(RADIX == THREADS, "a thread counts one value of a digit");

// Computes the same as Sampler::penalise, with no operation joined to another.
__device__ inline float penalised_logit(const NarrowArguments &arguments, int token) {
    const float logit = arguments.logits[token];
    if (arguments.seen == nullptr || (arguments.seen[token / 32] >> token % 32 & 1u) == 0)
        return logit;
    return logit > 0.0f ? __fdiv_rn(logit, arguments.penalty) : __fmul_rn(logit, arguments.penalty);
}

__device__ inline uint64_t key_of(const NarrowArguments &arguments, float logit, int token) {
    return static_cast<uint64_t>(choose::ordered_bits(logit)) << arguments.token_bits |
           static_cast<uint32_t>(arguments.vocabulary - 1 - token);
}

// How the key of the last candidate that is taken begins, as far as digits are counted, and how many candidates that
// begin so are taken. `shared` and `place` must not be in use; afterwards they are free again once all threads met.
__device__ inline NarrowPlace place_of(const NarrowArguments &arguments, int *shared, NarrowPlace &place) {
    if (arguments.digit == 0)
        return {0, arguments.count};
    const NarrowPlace before = arguments.state->places[arguments.digit - 1];
    const int mine = static_cast<int>(threadIdx.x);
    shared[mine] = arguments.state->counts[arguments.digit - 1][mine];
    __syncthreads();
    int larger = 0;
    for (int value = RADIX - 1; value > mine; --value)
        larger += shared[value];
    if (larger < before.rest && before.rest <= larger + shared[mine])
        place = {before.prefix << NARROW_BITS | static_cast<uint64_t>(mine), before.rest - larger};
    __syncthreads();
    return place;
}

// grid (parts), 256 threads.
V2E_KERNEL(v2e_narrow_count, NarrowArguments) {
    __shared__ int shared[RADIX];
    __shared__ NarrowPlace shared_place;
    const NarrowPlace place = place_of(arguments, shared, shared_place);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        arguments.state->places[arguments.digit] = place;
    shared[threadIdx.x] = 0;
    __syncthreads();
    const int shift = NARROW_BITS * (arguments.digits - 1 - arguments.digit);
    for (int token = static_cast<int>(blockIdx.x * THREADS + threadIdx.x); token < arguments.vocabulary;
         token += static_cast<int>(gridDim.x) * THREADS) {
        const uint64_t begin = key_of(arguments, penalised_logit(arguments, token), token) >> shift;
        if (begin >> NARROW_BITS == place.prefix)
            atomicAdd(&shared[begin % RADIX], 1);
    }
    __syncthreads();
    if (shared[threadIdx.x] != 0)
        atomicAdd(&arguments.state->counts[arguments.digit][threadIdx.x], shared[threadIdx.x]);
}

// The same grid, when all digits are counted.
V2E_KERNEL(v2e_narrow_take, NarrowArguments) {
    __shared__ int shared[RADIX];
    __shared__ NarrowPlace shared_place;
    const uint64_t last = place_of(arguments, shared, shared_place).prefix;
    for (int token = static_cast<int>(blockIdx.x * THREADS + threadIdx.x); token < arguments.vocabulary;
         token += static_cast<int>(gridDim.x) * THREADS) {
        const float logit = penalised_logit(arguments, token);
        if (key_of(arguments, logit, token) >= last)
            arguments.state->taken[atomicAdd(&arguments.state->taken_count, 1)] = {logit, token};
    }
}

} // namespace v2e::cuda::narrow
