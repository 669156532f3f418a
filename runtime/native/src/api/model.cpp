// The functions of valley2.h about models and sessions.
#include "api/arguments.hpp"
#include "api/model_threads.hpp"
#include "base/digest.hpp"
#include "base/error.hpp"
#include "base/platform.hpp"
#include "cuda/cuda_device_kind.hpp"
#include "decoder/backend_model.hpp"
#include "decoder/native_model.hpp"
#include "generation/prefix_cache.hpp"
#include "generation/session.hpp"
#include "generation/session_file.hpp"
#include "valley2.h"

#include <memory>
#include <string>
#include <utility>

struct v2e_model {
    std::unique_ptr<const v2e::LanguageModel> decoder;
    mutable v2e::PrefixCache prefixes; // changes no answer
    std::string identity;              // the bundle's digest; empty when the directory is part of no bundle
    uint32_t activations;              // v2e_activations
};

struct v2e_session {
    const v2e_model *model;
    v2e::Session session;
};

using namespace v2e;

namespace {

// The digest of the manifest that stands beside the decoder's directory. The manifest has the digests of all files.
std::string bundle_identity(const std::string &decoder_directory) {
    try {
        const MappedFile manifest(decoder_directory + "/../valley2.json");
        Digest digest;
        digest.add(manifest.data(), manifest.size());
        return to_hex(digest.finish());
    } catch (const Failure &) {
        return {}; // a decoder by itself: it can be used, but its sessions cannot be saved
    }
}

std::unique_ptr<const LanguageModel> open_decoder(const std::string &directory, const v2e_model_options &options) {
    if (options.backend != nullptr)
        return std::make_unique<BackendModel>(directory, options);
    return std::make_unique<NativeModel>(directory, options, cuda::device_kind());
}

std::string arithmetic_of(const v2e_model &model) {
    const char *planes = model.activations == V2E_ACTIVATIONS_INT16 ? "int16" : "int8";
    return std::string(v2e_version()) + " " + v2e_isa_name(model.decoder->describe().isa) + " " + planes;
}

void require_identity(const v2e_model &model) {
    if (model.identity.empty())
        fail(V2E_ERROR_INPUT, "Sessions of this model cannot be saved or loaded: no valley2.json stands beside its "
                              "directory to tell the bundle from others.");
}

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
v2e_session_options merged_options(v2e_session_options options, const SessionFile &file) {
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

std::shared_ptr<ThreadPool> v2e::threads_of(const v2e_model *model) {
    return model == nullptr ? nullptr : model->decoder->threads();
}

v2e_status v2e_model_open(const char *decoder_directory, const v2e_model_options *options, v2e_model **model) {
    return guard([&] {
        require(decoder_directory, "decoder_directory");
        require(model, "model");
        *model = nullptr;
        const v2e_model_options given = read_options(options);
        *model = new v2e_model{open_decoder(decoder_directory, given),
                               PrefixCache(prefix_cache_budget(given.prefix_cache_bytes, given.no_prefix_cache)),
                               bundle_identity(decoder_directory), given.activations};
    });
}

v2e_status v2e_model_describe(const v2e_model *model, v2e_model_description *description) {
    return guard([&] {
        require(model, "model");
        write_struct(model->decoder->describe(), description, "description");
    });
}

v2e_status v2e_model_embed(const v2e_model *model, const int32_t *tokens, size_t count, float *embeddings) {
    return guard([&] {
        require(model, "model");
        if (count == 0)
            return;
        require(tokens, "tokens");
        require(embeddings, "embeddings");
        model->decoder->embeddings().check_tokens(tokens, count);
        model->decoder->embeddings().embed(tokens, count, embeddings);
        model->decoder->require_intact();
    });
}

v2e_status v2e_model_prefix_cache(const v2e_model *model, v2e_prefix_cache *cache) {
    return guard([&] {
        require(model, "model");
        v2e_prefix_cache state{};
        state.budget_bytes = model->prefixes.budget_bytes();
        state.kept_bytes = model->prefixes.kept_bytes();
        state.pages = model->prefixes.page_count();
        write_struct(state, cache, "cache");
    });
}

v2e_status v2e_model_resize_prefix_cache(const v2e_model *model, uint64_t budget_bytes) {
    return guard([&] {
        require(model, "model");
        model->prefixes.resize(budget_bytes);
    });
}

void v2e_model_trim(const v2e_model *model) {
    if (model != nullptr)
        model->decoder->trim();
    return_free_memory();
}

void v2e_model_close(v2e_model *model) {
    delete model;
}

v2e_status v2e_session_open(const v2e_model *model, const v2e_session_options *options, v2e_session **session) {
    return guard([&] {
        require(model, "model");
        require(session, "session");
        *session = nullptr;
        *session = new v2e_session{model, Session(*model->decoder, read_options(options), &model->prefixes)};
    });
}

void v2e_session_close(v2e_session *session) {
    delete session;
}

v2e_status v2e_session_prefill(v2e_session *session, const v2e_segment *segments, size_t segment_count,
                               size_t logit_rows, v2e_event_callback callback, void *user_data) {
    return guard([&] {
        require(session, "session");
        session->session.prefill(segments, segment_count, logit_rows, {callback, user_data});
    });
}

v2e_status v2e_session_logits(const v2e_session *session, size_t rows, float *logits) {
    return guard([&] {
        require(session, "session");
        require(logits, "logits");
        session->session.logits(rows, logits);
    });
}

v2e_status v2e_session_generate(v2e_session *session, const v2e_generate_options *options, v2e_event_callback callback,
                                void *user_data, v2e_stop_reason *reason) {
    return guard([&] {
        require(session, "session");
        require(reason, "reason");
        *reason = session->session.generate(read_options(options), {callback, user_data});
    });
}

size_t v2e_session_length(const v2e_session *session) {
    return session == nullptr ? 0 : session->session.length();
}

uint64_t v2e_session_kv_bytes(const v2e_session *session) {
    uint64_t bytes = 0;
    if (session != nullptr)
        guard([&] { bytes = session->session.kv_bytes(); });
    return bytes;
}

v2e_status v2e_session_count(const v2e_session *session, v2e_session_counters *counters) {
    return guard([&] {
        require(session, "session");
        write_struct(session->session.counters(), counters, "counters");
    });
}

v2e_status v2e_session_truncate(v2e_session *session, size_t length) {
    return guard([&] {
        require(session, "session");
        session->session.truncate(length);
    });
}

v2e_status v2e_session_save(v2e_session *session, const char *path, const char *note) {
    return guard([&] {
        require(session, "session");
        require(path, "path");
        session->model->decoder->require_savable();
        require_identity(*session->model);
        SavedSession about;
        about.identity = session->model->identity;
        about.arithmetic = arithmetic_of(*session->model);
        about.note = note == nullptr ? "" : note;
        session->session.save(path, std::move(about));
    });
}

v2e_status v2e_session_load(const v2e_model *model, const char *path, const v2e_session_options *options,
                            v2e_session **session) {
    return guard([&] {
        require(model, "model");
        require(path, "path");
        require(session, "session");
        *session = nullptr;
        const v2e_session_options given = read_options(options);
        model->decoder->require_savable();
        require_identity(*model);
        const SessionFile file(path, model->identity);
        // Nothing that a file says reaches another session: neither its own pages nor those that are computed on them.
        auto made =
            std::unique_ptr<v2e_session>(new v2e_session{model, Session(*model->decoder, merged_options(given, file))});
        made->session.load(file);
        *session = made.release();
    });
}

const char *v2e_session_note(const v2e_session *session) {
    return session == nullptr ? "" : session->session.note().c_str();
}

void v2e_session_cancel(v2e_session *session) {
    if (session != nullptr)
        session->session.cancel();
}

// Not in valley2.h: for tests, which cancel at a look of a given number and count the looks after it.
extern "C" {
V2E_API void v2e_private_session_cancel_at(v2e_session *session, uint64_t look);
V2E_API uint64_t v2e_private_session_looks(v2e_session *session);
}

void v2e_private_session_cancel_at(v2e_session *session, uint64_t look) {
    session->session.stop_flag().set_at_look(look);
}

uint64_t v2e_private_session_looks(v2e_session *session) {
    return session->session.stop_flag().looks();
}

void v2e_session_resume(v2e_session *session) {
    if (session != nullptr)
        session->session.resume();
}
