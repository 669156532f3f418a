// Causal attention of some query rows over the KV cache, never holding more than 64 scores a row.
#pragma once

#include "valley2.h"

#include <cstddef>
#include <cstdint>

namespace v2e {

constexpr size_t KV_PAGE = 256;           // positions that are allocated together
constexpr size_t KEY_LANES = 16;          // keys that lie side by side, channel by channel
constexpr size_t MAX_ATTENTION_ROWS = 64; // of one task: positions * heads
constexpr size_t MAX_HEAD_SIZE = 512;

// The keys and values of one layer and one kv head. In page p, at byte offsets key_offset and value_offset:
// keys (KV_PAGE / 16, head_size, 16), values (KV_PAGE, head_size), fp16 or fp32.
struct KvView {
    const std::byte *const *pages;
    size_t key_offset;
    size_t value_offset;
    bool half;
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
};

// Floats of scratch that one running task needs.
size_t attention_scratch_floats(size_t head_size);

// Returns false when an output is a NaN or an infinity. A row's result does not depend on the other rows of its task:
// blocks of 64 keys begin at multiples of 64, and a block that a row does not see changes nothing in it.
using AttentionFunction = bool (*)(const AttentionTask &task, float *scratch);

AttentionFunction attention_function(v2e_isa isa);

namespace portable {
bool attend(const AttentionTask &task, float *scratch);
}
namespace avx2 {
bool attend(const AttentionTask &task, float *scratch);
}
namespace avx512 {
bool attend(const AttentionTask &task, float *scratch);
}
namespace neon {
bool attend(const AttentionTask &task, float *scratch);
}

} // namespace v2e
