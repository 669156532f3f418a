#include "decoder/decoder_sizes.hpp"

#include "base/error.hpp"
#include "cpu/attention/attention.hpp"

namespace v2e {
namespace {

// Far beyond what any decoder has, and small enough for every product of sizes to stay within 64 bits.
constexpr uint64_t MOST_WIDTH = 1 << 17, MOST_MIDDLE = 1 << 20, MOST_LAYERS = 1 << 10, MOST_HEADS = 1 << 12,
                   MOST_VOCABULARY = 1 << 22;
constexpr uint64_t MOST_CONTEXT = 1 << 24; // as far as a float counts

size_t read_size(const Json &config, const char *key, uint64_t most, const std::string &place) {
    const uint64_t value = config.at(key).unsigned_integer();
    if (value == 0 || value > most)
        fail(V2E_ERROR_BUNDLE, "%s.%s is %llu, which no decoder has.", place.c_str(), key,
             static_cast<unsigned long long>(value));
    return static_cast<size_t>(value);
}

} // namespace

DecoderSizes read_decoder_sizes(const Json &config, const std::string &place) {
    DecoderSizes sizes;
    sizes.hidden_size = read_size(config, "hidden_size", MOST_WIDTH, place);
    sizes.intermediate_size = read_size(config, "intermediate_size", MOST_MIDDLE, place);
    sizes.layers = read_size(config, "num_hidden_layers", MOST_LAYERS, place);
    sizes.heads = read_size(config, "num_attention_heads", MOST_HEADS, place);
    sizes.kv_heads = read_size(config, "num_key_value_heads", MOST_HEADS, place);
    sizes.vocabulary_size = read_size(config, "vocab_size", MOST_VOCABULARY, place);
    sizes.max_context = read_size(config, "max_position_embeddings", MOST_CONTEXT, place);
    if (config.contains("head_size"))
        sizes.head_size = read_size(config, "head_size", MAX_HEAD_SIZE, place);
    else if (sizes.hidden_size % sizes.heads == 0)
        sizes.head_size = sizes.hidden_size / sizes.heads;
    else
        fail(V2E_ERROR_BUNDLE, "%s: %zu heads cannot share a hidden_size of %zu evenly.", place.c_str(), sizes.heads,
             sizes.hidden_size);
    if (sizes.heads % sizes.kv_heads != 0)
        fail(V2E_ERROR_BUNDLE, "%s: %zu attention heads cannot share %zu kv heads evenly.", place.c_str(), sizes.heads,
             sizes.kv_heads);
    return sizes;
}

v2e_decoder_description describe_sizes(const DecoderSizes &sizes) {
    v2e_decoder_description description{};
    description.struct_size = sizeof description;
    description.hidden_size = static_cast<uint32_t>(sizes.hidden_size);
    description.intermediate_size = static_cast<uint32_t>(sizes.intermediate_size);
    description.layers = static_cast<uint32_t>(sizes.layers);
    description.heads = static_cast<uint32_t>(sizes.heads);
    description.kv_heads = static_cast<uint32_t>(sizes.kv_heads);
    description.head_size = static_cast<uint32_t>(sizes.head_size);
    description.vocabulary_size = static_cast<uint32_t>(sizes.vocabulary_size);
    description.max_context = static_cast<uint32_t>(sizes.max_context);
    return description;
}

} // namespace v2e
