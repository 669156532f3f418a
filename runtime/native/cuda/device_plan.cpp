#include "cuda/device_plan.hpp"

#include "cuda/kernels/arguments.hpp"

#include <algorithm>

namespace v2e::cuda {
namespace {

constexpr uint64_t FLOAT_BYTES = 4;

// Whether a product of many rows takes fp16 (cuda/kernels/linear_many.cuh); others take fp32.
bool takes_halves(const Matrix &matrix) {
    return matrix.quantized();
}

} // namespace

uint64_t layer_weight_bytes(const DecoderLayer &layer, const DecoderConfig &config) {
    return layer.qkv.weight_bytes + layer.output.weight_bytes + layer.gate_up.weight_bytes + layer.down.weight_bytes +
           2 * config.hidden_size * FLOAT_BYTES;
}

uint64_t head_weight_bytes(const Decoder &decoder) {
    return decoder.head().weight_bytes + decoder.config().hidden_size * FLOAT_BYTES;
}

uint64_t page_layer_bytes(const DecoderConfig &config, KvPrecision precision) {
    const uint64_t element = precision == KvPrecision::int8 ? 1 : precision == KvPrecision::fp16 ? 2 : 4;
    const uint64_t steps = precision == KvPrecision::int8 ? FLOAT_BYTES : 0;
    return config.kv_heads * 2 * KV_PAGE * (config.head_size * element + steps);
}

uint64_t cache_bytes(const DecoderConfig &config, KvPrecision precision, size_t layers, size_t positions) {
    return (positions + KV_PAGE - 1) / KV_PAGE * layers * page_layer_bytes(config, precision);
}

uint64_t scratch_bytes(const Decoder &decoder, size_t rows, size_t positions) {
    const DecoderConfig &config = decoder.config();
    rows = std::max<size_t>(rows, STEP_ROWS);
    const uint64_t widest = std::max({config.hidden_size, config.intermediate_size, config.query_size()});
    const uint64_t floats = config.hidden_size + config.qkv_size() + config.query_size() + 2 * config.intermediate_size;
    bool halves = false, singles = false;
    for (const DecoderLayer &layer : decoder.layers())
        for (const Matrix *matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
            (takes_halves(*matrix) ? halves : singles) = true;
    const uint64_t packed = rows * widest * (singles ? FLOAT_BYTES : 0) + rows * (widest + 2) * (halves ? 2 : 0);
    const uint64_t planes = STEP_ROWS * widest * 3; // two bytes, and sums and scales
    const uint64_t segments = (positions + KEY_SEGMENT - 1) / KEY_SEGMENT;
    const uint64_t partials = STEP_ROWS * config.heads * segments * (config.head_size + 2) * FLOAT_BYTES;
    const uint64_t logits = STEP_ROWS * config.vocabulary_size * FLOAT_BYTES;
    const uint64_t narrowing = sizeof(NarrowState) + (config.vocabulary_size + 31) / 32 * 4;
    return rows * floats * FLOAT_BYTES + packed + planes + partials + logits + narrowing;
}

size_t fitting_layers(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions, uint64_t bytes) {
    uint64_t needed = CONTEXT_BYTES + scratch_bytes(decoder, rows, positions);
    size_t fitting = 0;
    for (const DecoderLayer &layer : decoder.layers()) {
        needed += layer_weight_bytes(layer, decoder.config()) + cache_bytes(decoder.config(), precision, 1, positions);
        const bool last = fitting + 1 == decoder.config().layers;
        if (needed + (last ? head_weight_bytes(decoder) : 0) > bytes)
            break;
        ++fitting;
    }
    return fitting;
}

DevicePlan plan_device(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions, size_t layers) {
    const DecoderConfig &config = decoder.config();
    DevicePlan plan{};
    plan.layers = std::min(layers, config.layers);
    for (size_t i = 0; i < plan.layers; ++i)
        plan.weight_bytes += layer_weight_bytes(decoder.layers()[i], config);
    if (plan.layers == config.layers)
        plan.weight_bytes += head_weight_bytes(decoder);
    plan.kv_bytes = cache_bytes(config, precision, plan.layers, positions);
    plan.scratch_bytes = scratch_bytes(decoder, rows, positions);
    return plan;
}

} // namespace v2e::cuda
