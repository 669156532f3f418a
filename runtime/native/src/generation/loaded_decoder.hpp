// A decoder in memory, with what its sessions share, and how they are saved.
#pragma once

#include "decoder/language_model.hpp"
#include "generation/prefix_cache.hpp"
#include "generation/session.hpp"
#include "generation/session_file.hpp"
#include "valley2_parts.h"

#include <memory>
#include <string>

namespace v2e {

class LoadedDecoder {
  public:
    // `identity`: the bundle's digest; empty when the directory is part of no bundle.
    LoadedDecoder(std::unique_ptr<const LanguageModel> model, const v2e_decoder_options &options, std::string identity);

    const LanguageModel &model() const { return *model_; }
    PrefixCache &prefixes() const { return prefixes_; } // changes no answer
    const std::string &identity() const { return identity_; }

    void save(Session &session, const std::string &path, const std::string &note) const;
    // A session that goes on as the saved one would have. What is 0 in the options is as it was.
    std::unique_ptr<Session> load(const std::string &path, const v2e_decoder_session_options &options) const;

  private:
    void require_savable() const;
    std::string arithmetic() const;

    std::unique_ptr<const LanguageModel> model_;
    mutable PrefixCache prefixes_;
    std::string identity_;
    uint32_t activations_; // v2e_activations
};

// The digest of the manifest in a directory, which has the digests of all files; empty when there is none.
std::string bundle_identity(const std::string &bundle_directory);

} // namespace v2e
