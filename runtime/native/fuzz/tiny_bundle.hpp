// A bundle of a few kilobytes that the core accepts: one layer each, weights without meaning. The seeds are made of its
// texts; targets that need a working model open it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fuzz {

constexpr size_t VOCABULARY = 40;
constexpr size_t CONTEXT = 600; // more than two pages of the KV cache
constexpr size_t HIDDEN = 32;

// Headers of safetensors files, on one line. precision: "fp32", "fp16", "int8", "int4", "int4-zeros", "nf4".
std::string decoder_header(const std::string &precision);
std::string embeddings_header();
// precision: "int8", "bf16" or "fp32".
std::string siglip_header(const std::string &precision);
// kind: "softmax" or "st_argmax" of an ovis_conv_adapter, or another type of projector.
std::string projector_header(const std::string &kind, const std::string &precision);
std::string eagle_header(const std::string &precision);
// native_towers: vision/*.safetensors, else graphs of ONNX.
std::string manifest(bool native_towers, bool onnx_decoder);

// The file of a header: padded so that the data begins at a multiple of 64, as long as its offsets say (at most
// 256 KiB), filled with small numbers whatever their type, and with `data` over its beginning.
std::string safetensors(std::string_view header, std::string_view data);

// Writes valley2.json, decoder/ and vision/.
void write_bundle(const std::string &directory, const std::string &decoder_precision);

} // namespace fuzz
