#include "cuda/cuda_narrowing.hpp"

#include "cuda/kernels/arguments.hpp"

#include <algorithm>
#include <cstddef>

namespace v2e::cuda {
namespace {

constexpr size_t THREADS = 256;
constexpr size_t MOST_PARTS = 64; // blocks that share the logits
constexpr int LOGIT_BITS = 32;

static_assert(Narrowing::MOST == MOST_NARROWED);
static_assert(sizeof(Candidate) == sizeof(NarrowedLogit) &&
              offsetof(Candidate, token) == offsetof(NarrowedLogit, token));

} // namespace

void CudaNarrowing::reserve(const Device &device, size_t vocabulary) {
    const size_t seen_bytes = (vocabulary + 31) / 32 * sizeof(uint32_t);
    if (seen_bytes > seen_.bytes())
        host_seen_.clear();
    state_.reserve(device, sizeof(NarrowState));
    seen_.reserve(device, seen_bytes);
}

// The words that have changed, and what is between them: mostly that of one token.
void CudaNarrowing::update_seen(const Queue &queue, const std::vector<uint32_t> &seen) {
    auto first = seen.begin(), last = seen.end();
    if (host_seen_.size() == seen.size()) {
        first = std::mismatch(seen.begin(), seen.end(), host_seen_.begin()).first;
        while (last != first && last[-1] == host_seen_[static_cast<size_t>(last - seen.begin()) - 1])
            --last;
    }
    if (first == last)
        return;
    host_seen_.clear(); // unknown, should the upload fail
    const auto offset = static_cast<size_t>(first - seen.begin()) * sizeof(uint32_t);
    queue.upload(seen_.address() + offset, &*first, static_cast<size_t>(last - first) * sizeof(uint32_t));
    host_seen_ = seen;
}

void CudaNarrowing::run(const Device &device, const Queue &queue, const float *logits, size_t vocabulary,
                        const Narrowing &narrowing, Candidate *candidates) {
    NarrowArguments arguments{};
    if (narrowing.penalty != 1.0f) {
        update_seen(queue, narrowing.seen);
        arguments.seen = seen_.as<uint32_t>();
    }
    arguments.logits = logits;
    arguments.state = state_.as<NarrowState>();
    arguments.penalty = narrowing.penalty;
    arguments.vocabulary = static_cast<int>(vocabulary);
    arguments.count = static_cast<int>(narrowing.count);
    while ((vocabulary - 1) >> arguments.token_bits != 0)
        ++arguments.token_bits;
    arguments.digits = (LOGIT_BITS + arguments.token_bits + NARROW_BITS - 1) / NARROW_BITS;
    const Grid grid{std::min(MOST_PARTS, (vocabulary + THREADS - 1) / THREADS)};
    queue.set(state_.address(), 0, offsetof(NarrowState, taken));
    for (; arguments.digit < arguments.digits; ++arguments.digit)
        device.launch("v2e_narrow_count", grid, THREADS, queue.stream(), arguments);
    device.launch("v2e_narrow_take", grid, THREADS, queue.stream(), arguments);
    queue.download(candidates, state_.address() + offsetof(NarrowState, taken), narrowing.count * sizeof(Candidate));
    queue.wait();
}

} // namespace v2e::cuda
