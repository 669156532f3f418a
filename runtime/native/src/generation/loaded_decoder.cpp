#include "generation/loaded_decoder.hpp"

#include "base/digest.hpp"
#include "base/error.hpp"
#include "base/platform.hpp"

#include <utility>

namespace v2e {
namespace {

uint32_t kv_precision_number(KvPrecision precision) {
    switch (precision) {
    case KvPrecision::fp16:
        return V2E_KV_FP16;
    case KvPrecision::int8:
        return V2E_KV_INT8;
    case KvPrecision::fp32:
        break;
    }
    return V2E_KV_FP32;
}

// The caller's, and where they are 0 those of the saved session.
v2e_decoder_session_options merged_options(v2e_decoder_session_options options, const SessionFile &file) {
    const uint32_t precision = kv_precision_number(file.saved().precision);
    if (options.kv_precision != V2E_KV_AUTO && options.kv_precision != precision)
        fail(V2E_ERROR_INPUT, "%s holds its keys and values in another kv_precision than the one that was asked for.",
             file.path().c_str());
    options.kv_precision = precision;
    if (options.context_length == 0)
        options.context_length = static_cast<uint32_t>(file.saved().context_length);
    if (options.prefill_chunk == 0)
        options.prefill_chunk = static_cast<uint32_t>(file.saved().prefill_chunk);
    return options;
}

} // namespace

LoadedDecoder::LoadedDecoder(std::unique_ptr<const LanguageModel> model, const v2e_decoder_options &options,
                             std::string identity)
    : model_(std::move(model)), prefixes_(prefix_cache_budget(options.prefix_cache_bytes, options.no_prefix_cache)),
      identity_(std::move(identity)), activations_(options.activations) {}

void LoadedDecoder::require_savable() const {
    model_->require_savable();
    if (identity_.empty())
        fail(V2E_ERROR_INPUT, "Sessions of this model cannot be saved or loaded: no valley2.json stands beside its "
                              "directory to tell the bundle from others.");
}

std::string LoadedDecoder::arithmetic() const {
    const char *planes = activations_ == V2E_ACTIVATIONS_INT16 ? "int16" : "int8";
    return std::string(v2e_version()) + " " + v2e_isa_name(model_->describe().isa) + " " + planes;
}

void LoadedDecoder::save(Session &session, const std::string &path, const std::string &note) const {
    require_savable();
    SavedSession about;
    about.identity = identity_;
    about.arithmetic = arithmetic();
    about.note = note;
    session.save(path, std::move(about));
}

std::unique_ptr<Session> LoadedDecoder::load(const std::string &path,
                                             const v2e_decoder_session_options &options) const {
    require_savable();
    const SessionFile file(path, identity_);
    // Nothing that a file says reaches another session: neither its own pages nor those that are computed on them.
    auto session = std::make_unique<Session>(*model_, merged_options(options, file));
    session->load(file);
    return session;
}

std::string bundle_identity(const std::string &bundle_directory) {
    try {
        const MappedFile manifest(bundle_directory + "/valley2.json");
        Digest digest;
        digest.add(manifest.data(), manifest.size());
        return to_hex(digest.finish());
    } catch (const Failure &) {
        return {}; // a decoder by itself: it can be used, but its sessions cannot be saved
    }
}

} // namespace v2e
