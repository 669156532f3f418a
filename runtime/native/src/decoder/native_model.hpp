// A decoder that the core computes itself.
#pragma once

#include "decoder/decoder.hpp"
#include "decoder/embedding_table.hpp"
#include "decoder/language_model.hpp"

#include <string>

namespace v2e {

// The precision of a KV cache that a v2e_kv_precision asks for. Fails with V2E_ERROR_INPUT.
KvPrecision chosen_kv_precision(const Decoder &decoder, uint32_t kv_precision);

class NativeModel final : public LanguageModel {
  public:
    // The options say whether one of the devices may compute layers; their kind must outlive the model.
    NativeModel(const std::string &directory, const v2e_decoder_options &options, const DeviceKind &devices)
        : decoder_(directory, options, devices), embeddings_(directory, options.embeddings_stamp, decoder_.config()) {}

    const Decoder &decoder() const { return decoder_; }

    const DecoderSizes &sizes() const override { return decoder_.config(); }
    const EmbeddingTable &embeddings() const override { return embeddings_; }
    v2e_decoder_description describe() const override;
    std::shared_ptr<ThreadPool> threads() const override { return decoder_.shared_pool(); }
    std::unique_ptr<Executor> make_executor(uint32_t kv_precision, size_t context_length) const override;
    void require_savable() const override;
    void require_intact() const override;
    void trim() const override;

  private:
    Decoder decoder_;
    EmbeddingTable embeddings_;
};

} // namespace v2e
