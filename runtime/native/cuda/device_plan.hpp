// What a decoder takes of a GPU's memory, by arithmetic: the loader and the planner ask the same functions.
#pragma once

#include "cpu/attention/attention.hpp"
#include "decoder/decoder.hpp"
#include "decoder/device_kind.hpp"

#include <cstddef>
#include <cstdint>

namespace v2e::cuda {

constexpr size_t DEFAULT_CHUNK = 512; // positions of a prefill that are computed together
constexpr size_t MOST_CHUNK = 8192;
// The context of a process, its kernels, and what allocations lose at their ends: assumed, no GPU has shown it.
constexpr uint64_t CONTEXT_BYTES = uint64_t{400} << 20;

// The weights of one layer, and those of the final norm and the head.
uint64_t layer_weight_bytes(const DecoderLayer &layer, const DecoderConfig &config);
uint64_t head_weight_bytes(const Decoder &decoder);
// The keys and values of one layer and page, in `precision`.
uint64_t page_layer_bytes(const DecoderConfig &config, KvPrecision precision);
uint64_t cache_bytes(const DecoderConfig &config, KvPrecision precision, size_t layers, size_t positions);
// The buffers of a session: activations of `rows` positions, logits, sums of attention over `positions` keys.
uint64_t scratch_bytes(const Decoder &decoder, size_t rows, size_t positions);

DevicePlan plan_device(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions, size_t layers);

// How many of the first layers fit `bytes` with everything that a session of `positions` needs; with all of them the
// head must fit, too.
size_t fitting_layers(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions, uint64_t bytes);

} // namespace v2e::cuda
