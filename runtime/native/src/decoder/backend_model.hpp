// A decoder that a backend computes. Its sizes are those of the bundle's manifest; its embedding table is the core's.
#pragma once

#include "base/backend_table.hpp"
#include "decoder/embedding_table.hpp"
#include "decoder/language_model.hpp"

#include <string>

namespace v2e {

// Refuses a v2e_kv_precision other than the backend's own.
void require_own_precision(const BackendTable &table, uint32_t kv_precision);

class BackendModel final : public LanguageModel {
  public:
    // Opens the decoder in a bundle's folder `directory` for options.backend. Fails with V2E_ERROR_INPUT for options
    // of the core's own kernels.
    BackendModel(const std::string &directory, const v2e_decoder_options &options);

    const DecoderSizes &sizes() const override { return sizes_; }
    const EmbeddingTable &embeddings() const override { return embeddings_; }
    v2e_decoder_description describe() const override;
    std::shared_ptr<ThreadPool> threads() const override { return nullptr; }
    std::unique_ptr<Executor> make_executor(uint32_t kv_precision, size_t context_length) const override;
    void require_savable() const override;
    void require_intact() const override { embeddings_.require_intact(); }
    void trim() const override { embeddings_.drop_pages(); }

  private:
    BackendTable table_;
    unsigned threads_;
    DecoderSizes sizes_;
    EmbeddingTable embeddings_;
};

} // namespace v2e
