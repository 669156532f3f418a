#include "decoder/embedding_table.hpp"

#include "base/error.hpp"
#include "base/half.hpp"
#include "decoder/file_format.hpp"

#include <cstring>
#include <vector>

namespace v2e {

EmbeddingTable::EmbeddingTable(const std::string &decoder_directory, const v2e_file_stamp *stamp,
                               const DecoderSizes &sizes)
    : file_(decoder_directory + "/embeddings.safetensors", stamp), vocabulary_size_(sizes.vocabulary_size),
      hidden_size_(sizes.hidden_size) {
    check_format(file_, "valley2-embeddings");
    rows_ = file_.tensor("embeddings.weight");
    const bool typed = rows_.dtype == "BF16" || rows_.dtype == "F16" || rows_.dtype == "F32";
    if (!typed || rows_.shape != std::vector<uint64_t>{vocabulary_size_, hidden_size_})
        fail(V2E_ERROR_BUNDLE, "%s: embeddings.weight is not BF16, F16 or F32 of the shape (%zu, %zu).",
             file_.path().c_str(), vocabulary_size_, hidden_size_);
    if (!is_aligned(reinterpret_cast<const float *>(rows_.data)))
        fail(V2E_ERROR_BUNDLE, "%s: tensor 'embeddings.weight' is not aligned to %zu bytes.", file_.path().c_str(),
             alignof(float));
}

void EmbeddingTable::check_tokens(const int32_t *tokens, size_t count) const {
    for (size_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= vocabulary_size_)
            fail(V2E_ERROR_INPUT, "The token id %d is outside the vocabulary of %zu.", static_cast<int>(tokens[i]),
                 vocabulary_size_);
}

void EmbeddingTable::embed(const int32_t *tokens, size_t count, float *embeddings) const {
    for (size_t i = 0; i < count; ++i, embeddings += hidden_size_) {
        const size_t first = static_cast<size_t>(tokens[i]) * hidden_size_;
        if (rows_.dtype == "F32") {
            std::memcpy(embeddings, rows_.data + first * sizeof(float), hidden_size_ * sizeof(float));
            continue;
        }
        const auto *row = reinterpret_cast<const uint16_t *>(rows_.data) + first;
        const bool bf16 = rows_.dtype == "BF16";
        for (size_t channel = 0; channel < hidden_size_; ++channel)
            embeddings[channel] = bf16 ? float_from_bf16(row[channel]) : float_from_half(row[channel]);
    }
}

} // namespace v2e
