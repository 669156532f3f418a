// Causal attention of some query rows over the KV cache, never holding more than 64 scores a row.
#pragma once

#include "base/stop_flag.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

constexpr size_t KV_PAGE = 256;           // positions that are allocated together
constexpr size_t KEY_LANES = 16;          // keys that lie side by side, channel by channel
constexpr size_t MAX_ATTENTION_ROWS = 64; // most rows of one task: positions * heads
constexpr size_t MAX_HEAD_SIZE = 512;
// Keys that a row adds up by themselves before they join the rest: a multiple of KV_PAGE. It decides the order of the
// sums and thereby the bits, so it depends on nothing, the number of threads least of all.
constexpr size_t KEY_SEGMENT = 512;

enum class KvPrecision { fp32, fp16, int8 };

// The keys and values of one layer and one kv head. In page p, at the byte offsets:
// keys (KV_PAGE / 16, head_size, 16), values (KV_PAGE, head_size); with int8, float key_steps (KV_PAGE,) and
// value_steps (KV_PAGE,) that the whole numbers of a position are multiples of.
struct KvView {
    const std::byte *const *pages;
    size_t key_offset;
    size_t value_offset;
    size_t key_step_offset;
    size_t value_step_offset;
    KvPrecision precision;
};

// `heads` neighbouring query heads that share a kv head, at `positions` neighbouring positions.
struct AttentionTask {
    KvView cache;
    const float *queries; // (positions, heads, head_size), rotated; query_stride floats from position to position
    size_t query_stride;
    float *output; // likewise
    size_t output_stride;
    size_t first_position; // in the session; a query sees the keys up to and including its own position
    size_t positions;
    size_t heads;
    size_t head_size; // a multiple of 16, at most MAX_HEAD_SIZE
    float score_scale;
    const StopFlag *stop; // looked at before each segment; may be null. Where it stops, the output means nothing.
};

// Segments with keys that some row of a task sees.
size_t attention_segments(const AttentionTask &task);
// Floats of scratch that one running task needs, and of what attend_segment leaves behind.
size_t attention_scratch_floats(size_t head_size);
size_t attention_partial_floats(size_t rows, size_t head_size);

// A row's result does not depend on the other rows of its task, and attend gives the bits of join after attend_segment:
// blocks of 64 keys begin at multiples of 64, segments at multiples of KEY_SEGMENT, and what a row does not see changes
// nothing in it.
struct AttentionKernels {
    // Attends over all keys. Returns false when an output is a NaN or an infinity.
    bool (*attend)(const AttentionTask &task, float *scratch);
    // Attends over the keys of one segment only; `partial` holds the sums that are not finished.
    void (*attend_segment)(const AttentionTask &task, size_t segment, float *partial, float *scratch);
    // Finishes partials (segments, attention_partial_floats), which it overwrites. Returns what attend does.
    bool (*join)(const AttentionTask &task, float *partials);
};

const AttentionKernels &attention_kernels(v2e_isa isa);

namespace portable {
extern const AttentionKernels attention;
}
namespace avx2 {
extern const AttentionKernels attention;
}
namespace avx512 {
extern const AttentionKernels attention;
}
namespace neon {
extern const AttentionKernels attention;
}

} // namespace v2e
