// The decoder's embedding table, mapped from embeddings.safetensors.
#pragma once

#include "bundle/safetensors.hpp"
#include "decoder/decoder_sizes.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace v2e {

// Immutable, shared by sessions.
class EmbeddingTable {
  public:
    // `stamp`: what the file was when it was checked; null: anything. Fails with V2E_ERROR_BUNDLE.
    EmbeddingTable(const std::string &decoder_directory, const v2e_file_stamp *stamp, const DecoderSizes &sizes);

    // Fails with V2E_ERROR_INPUT for an id outside the vocabulary, naming it.
    void check_tokens(const int32_t *tokens, size_t count) const;
    // Rows of the table, (count, hidden_size). The ids have been checked.
    void embed(const int32_t *tokens, size_t count, float *embeddings) const;

    size_t mapped_bytes() const { return file_.mapped_bytes(); }
    void drop_pages() const noexcept { file_.drop_pages(); }
    // Fails when the file is not any more what it was when it was opened.
    void require_intact() const { file_.require_intact(); }

  private:
    SafetensorsFile file_;
    size_t vocabulary_size_, hidden_size_;
    TensorView rows_; // (vocabulary_size, hidden_size) BF16, F16 or F32
};

} // namespace v2e
