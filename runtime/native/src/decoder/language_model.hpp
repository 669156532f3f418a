// What a session needs of a decoder, whoever computes it.
#pragma once

#include "base/thread_pool.hpp"
#include "decoder/decoder_sizes.hpp"
#include "decoder/embedding_table.hpp"
#include "decoder/executor.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace v2e {

// Immutable, shared by sessions.
class LanguageModel {
  public:
    LanguageModel() = default;
    virtual ~LanguageModel() = default;
    LanguageModel(const LanguageModel &) = delete;
    LanguageModel &operator=(const LanguageModel &) = delete;

    virtual const DecoderSizes &sizes() const = 0;
    virtual const EmbeddingTable &embeddings() const = 0;
    virtual v2e_decoder_description describe() const = 0;
    // On which it computes; null: a backend has its own.
    virtual std::shared_ptr<ThreadPool> threads() const = 0;
    // For a session of at most `context_length` positions, whose keys and values are in a v2e_kv_precision. The model
    // must outlive it. Fails with V2E_ERROR_INPUT for a precision that cannot be had.
    virtual std::unique_ptr<Executor> make_executor(uint32_t kv_precision, size_t context_length) const = 0;
    // Fails with V2E_ERROR_INPUT where the keys and values of sessions are not at hand to be saved and loaded.
    virtual void require_savable() const = 0;
    // Fails when one of its files is not any more what it was when it was opened.
    virtual void require_intact() const = 0;
    // Gives back what nothing needs until the next call.
    virtual void trim() const = 0;
};

} // namespace v2e
