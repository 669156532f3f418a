// What the host passes to each kernel: one struct by value, in plain types that nvcc and every C++ compiler lay out in
// the same way. Pointers are addresses on the device.
#pragma once

#include <cstdint>

namespace v2e::cuda {

constexpr int PANEL = 64;        // rows of a weight matrix that lie together, as in matrix.hpp
constexpr int KV_PAGE = 256;     // positions of a page of the KV cache
constexpr int KEY_SEGMENT = 128; // keys that one block of step attention adds up; divides KV_PAGE
constexpr int MOST_HEADS = 8;    // query heads that one block of attention serves
constexpr int MOST_HEAD_SIZE = 512;
constexpr int STEP_ROWS = 16; // positions of a decode step at most: a token and its draft
// The rows and columns that each block of linear_many and linear_plain multiplies.
constexpr int MANY_ROWS = 128, MANY_PANELS = 2;
constexpr int PLAIN_ROWS = 64;
constexpr int FEW_ROWS = 32; // weight rows of a block of linear_few
constexpr int NOT_FAILED = 0x7f7f7f7f;

// Where in a forward pass a NaN or an infinity was found: layer * STAGES + stage, in the order of computation. The
// embeddings are the residual before layer 0; behind the last layer come residual, input_norm (the final one) and
// logits.
enum Stage : int {
    STAGE_RESIDUAL, // after the MLP of the layer before
    STAGE_INPUT_NORM,
    STAGE_QKV,
    STAGE_ATTENTION,
    STAGE_MIDDLE, // the residual after attention
    STAGE_MIDDLE_NORM,
    STAGE_ACTIVATION,
    STAGES,
    STAGE_LOGITS = STAGE_QKV
};

// In what form rows (rows, columns) are written for the product that reads them.
enum RowForm : int {
    FORM_FLOATS, // float (rows, columns)
    FORM_PLANES, // see Planes
    FORM_HALVES  // see Halves
};

// Whole numbers between -16256 and 16256 as 128 * high + low in two int8, times a scale for each group of columns: what
// the CPU calls int16 activations.
struct Planes {
    uint8_t *values; // (rows, columns / 8, 16): eight highs, eight lows
    int32_t *sums;   // (rows, columns / 8): of the whole numbers
    float *scales;   // (rows, groups)
};

// fp16 times a power of two for each row, which leaves the row's largest magnitude between 2^14 and 2^15: nothing can
// overflow. Of each eight columns the order is 0 2 4 6 1 3 5 7, that of the nibbles of an int4 weight.
struct Halves {
    uint16_t *values; // (rows, columns)
    float *factors;   // (rows,)
};

// The buffers that hold one set of rows in any form.
struct PackedRows {
    float *floats;
    Planes planes;
    Halves halves;
};

struct PackArguments {
    const float *input;  // (rows, columns), for swiglu (rows, 2 * columns): gate, then up
    const float *weight; // (columns,) of the norm; null elsewhere
    PackedRows output;
    RowForm form;
    int columns;
    int group_size; // columns that share a scale of the planes
    double epsilon;
    int *status;
    int input_stage; // norm only: of the rows that come in
    int stage;       // the stage of the rows that go out
};

// A matrix in the panel layout of the bundle (docs/bundle.md, "Panels").
struct DeviceMatrix {
    const uint8_t *weight;
    const uint16_t *scales;
    const uint8_t *zeros; // null: symmetric
    const float *bias;    // (rows,); null: none
    int rows;
    int columns;
    int group_size;
};

struct LinearArguments {
    DeviceMatrix matrix;
    PackedRows input;
    float *output; // (count, output_stride)
    int count;
    int output_stride;
    int add; // 1: to what the output holds, 0: in its place
};

// One page holds, for every layer and kv head: keys (KV_PAGE, head_size), values (KV_PAGE, head_size), and with int8
// key_steps and value_steps, float (KV_PAGE,).
struct CacheArguments {
    uint8_t *const *pages; // (pages,)
    uint64_t offset;       // where the layer begins in a page
    uint64_t head_bytes;   // bytes of one kv head
    const int *position;   // where row 0 stands in the session
    int precision;         // CachePrecision
};

enum CachePrecision : int { CACHE_FP32, CACHE_FP16, CACHE_INT8 };

struct RotateArguments {
    float *qkv;               // (rows, (heads + 2 * kv_heads) * head_size): queries stay, rotated
    const float *frequencies; // (head_size / 2,)
    CacheArguments cache;
    int heads, kv_heads, head_size;
    int *status;
    int stage;
};

struct AttentionArguments {
    const float *queries; // (rows, query_stride), of rows from `first_row` on
    CacheArguments cache;
    float *partials; // (rows, heads, segments, head_size + 2): sums of weighted values, largest score, sum of weights
    float *output;   // (rows, heads * head_size)
    int query_stride;
    int first_row; // the first row of the chunk that is computed
    int rows;
    int segments; // that partials has room for
    int heads, kv_heads, head_size;
    float score_scale;
    int *status;
    int stage;
};

struct ChooseArguments {
    const float *logits; // (rows, vocabulary)
    uint64_t *best;      // (rows,): the ordered bits of the largest logit above ~token; 0 before
    int vocabulary;
    int *status;
    int stage;
};

constexpr int NARROW_BITS = 8;         // bits of a digit of a key
constexpr int NARROW_DIGITS = 8;       // most digits of a key
constexpr int MOST_NARROWED = 1 << 10; // candidates

struct NarrowPlace {
    uint64_t prefix;
    int rest;
};

struct NarrowedLogit {
    float logit; // penalised
    int token;
};

// All zero before the first digit is counted.
struct NarrowState {
    int counts[NARROW_DIGITS][1 << NARROW_BITS]; // keys that begin like the last one taken, counted by their next digit
    NarrowPlace places[NARROW_DIGITS];           // before each digit
    int taken_count;
    NarrowedLogit taken[MOST_NARROWED]; // in no order
};

// Keys are the ordered bits of a logit above vocabulary - 1 - token, which has `token_bits`.
struct NarrowArguments {
    const float *logits;  // (vocabulary,)
    const uint32_t *seen; // (vocabulary / 32, rounded up): a bit for each token that is penalised; null: none is
    NarrowState *state;
    float penalty;
    int vocabulary;
    int count; // candidates to take, 1 to vocabulary
    int token_bits;
    int digits; // digits of a key
    int digit;  // to be counted; `digits` to take
};

struct ProbeArguments {
    const uint8_t *source;
    uint8_t *target;
    uint64_t bytes;
    int steps;
};

} // namespace v2e::cuda
