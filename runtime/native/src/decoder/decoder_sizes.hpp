// The sizes of a decoder, which its sessions need whoever computes it.
#pragma once

#include "base/json.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <string>

namespace v2e {

struct DecoderSizes {
    size_t hidden_size = 0;
    size_t intermediate_size = 0;
    size_t layers = 0;
    size_t heads = 0;
    size_t kv_heads = 0;
    size_t head_size = 0;
    size_t vocabulary_size = 0;
    size_t max_context = 0; // positions that the model was trained for

    size_t query_size() const { return heads * head_size; }
    size_t kv_size() const { return kv_heads * head_size; }
    size_t qkv_size() const { return query_size() + 2 * kv_size(); }
};

// Reads them under transformers' names. Where there is no head_size the heads share hidden_size evenly. `place` is
// where they stand, for messages. Fails with V2E_ERROR_BUNDLE.
DecoderSizes read_decoder_sizes(const Json &config, const std::string &place);
// A description in which nothing but the sizes is filled in.
v2e_decoder_description describe_sizes(const DecoderSizes &sizes);

} // namespace v2e
