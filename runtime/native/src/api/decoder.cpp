// The functions of valley2_parts.h about decoders and their sessions.
#include "api/arguments.hpp"
#include "api/decoder_threads.hpp"
#include "api/handles.hpp"
#include "base/error.hpp"
#include "base/platform.hpp"
#include "cuda/cuda_device_kind.hpp"
#include "decoder/backend_model.hpp"
#include "decoder/native_model.hpp"
#include "generation/loaded_decoder.hpp"
#include "valley2_model_parts.h"

#include <memory>
#include <string>
#include <utility>

struct v2e_decoder {
    std::shared_ptr<const v2e::LoadedDecoder> decoder;
};

struct v2e_decoder_session {
    const v2e_decoder *decoder;
    std::unique_ptr<v2e::Session> session;
};

using namespace v2e;

namespace {

std::unique_ptr<const LanguageModel> open_decoder(const std::string &directory, const v2e_decoder_options &options) {
    if (options.backend != nullptr)
        return std::make_unique<BackendModel>(directory, options);
    return std::make_unique<NativeModel>(directory, options, cuda::device_kind());
}

} // namespace

std::shared_ptr<ThreadPool> v2e::threads_of(const v2e_decoder *decoder) {
    return decoder == nullptr ? nullptr : decoder->decoder->model().threads();
}

v2e_status v2e_decoder_open(const char *decoder_directory, const v2e_decoder_options *options, v2e_decoder **decoder) {
    return guard([&] {
        require(decoder_directory, "decoder_directory");
        require(decoder, "decoder");
        *decoder = nullptr;
        const v2e_decoder_options given = read_options(options);
        *decoder = new v2e_decoder{std::make_shared<const LoadedDecoder>(
            open_decoder(decoder_directory, given), given, bundle_identity(std::string(decoder_directory) + "/.."))};
    });
}

v2e_status v2e_model_decoder(const v2e_model *model, v2e_decoder **decoder) {
    return guard([&] {
        require(model, "model");
        require(decoder, "decoder");
        *decoder = new v2e_decoder{{model->model, &model->model->decoder()}};
    });
}

v2e_status v2e_decoder_describe(const v2e_decoder *decoder, v2e_decoder_description *description) {
    return guard([&] {
        require(decoder, "decoder");
        write_struct(decoder->decoder->model().describe(), description, "description");
    });
}

v2e_status v2e_decoder_embed(const v2e_decoder *decoder, const int32_t *tokens, size_t count, float *embeddings) {
    return guard([&] {
        require(decoder, "decoder");
        if (count == 0)
            return;
        require(tokens, "tokens");
        require(embeddings, "embeddings");
        decoder->decoder->model().embeddings().check_tokens(tokens, count);
        decoder->decoder->model().embeddings().embed(tokens, count, embeddings);
        decoder->decoder->model().require_intact();
    });
}

v2e_status v2e_decoder_prefix_cache(const v2e_decoder *decoder, v2e_prefix_cache *cache) {
    return guard([&] {
        require(decoder, "decoder");
        v2e_prefix_cache state{};
        state.budget_bytes = decoder->decoder->prefixes().budget_bytes();
        state.kept_bytes = decoder->decoder->prefixes().kept_bytes();
        state.pages = decoder->decoder->prefixes().page_count();
        write_struct(state, cache, "cache");
    });
}

v2e_status v2e_decoder_resize_prefix_cache(const v2e_decoder *decoder, uint64_t budget_bytes) {
    return guard([&] {
        require(decoder, "decoder");
        decoder->decoder->prefixes().resize(budget_bytes);
    });
}

void v2e_decoder_trim(const v2e_decoder *decoder) {
    if (decoder != nullptr)
        decoder->decoder->model().trim();
    return_free_memory();
}

void v2e_decoder_close(v2e_decoder *decoder) {
    delete decoder;
}

v2e_status v2e_decoder_session_open(const v2e_decoder *decoder, const v2e_decoder_session_options *options,
                                    v2e_decoder_session **session) {
    return guard([&] {
        require(decoder, "decoder");
        require(session, "session");
        *session = nullptr;
        *session =
            new v2e_decoder_session{decoder, std::make_unique<Session>(decoder->decoder->model(), read_options(options),
                                                                       &decoder->decoder->prefixes())};
    });
}

void v2e_decoder_session_close(v2e_decoder_session *session) {
    delete session;
}

v2e_status v2e_decoder_session_prefill(v2e_decoder_session *session, const v2e_segment *segments, size_t segment_count,
                                       size_t logit_rows, v2e_event_callback callback, void *user_data) {
    return guard([&] {
        require(session, "session");
        session->session->prefill(segments, segment_count, logit_rows, {callback, user_data});
    });
}

v2e_status v2e_decoder_session_logits(const v2e_decoder_session *session, size_t rows, float *logits) {
    return guard([&] {
        require(session, "session");
        require(logits, "logits");
        session->session->logits(rows, logits);
    });
}

v2e_status v2e_decoder_session_generate(v2e_decoder_session *session, const v2e_generate_options *options,
                                        v2e_event_callback callback, void *user_data, v2e_stop_reason *reason) {
    return guard([&] {
        require(session, "session");
        require(reason, "reason");
        *reason = session->session->generate(read_options(options), {callback, user_data});
    });
}

size_t v2e_decoder_session_length(const v2e_decoder_session *session) {
    return session == nullptr ? 0 : session->session->length();
}

uint64_t v2e_decoder_session_kv_bytes(const v2e_decoder_session *session) {
    uint64_t bytes = 0;
    if (session != nullptr)
        guard([&] { bytes = session->session->kv_bytes(); });
    return bytes;
}

v2e_status v2e_decoder_session_count(const v2e_decoder_session *session, v2e_decoder_session_counters *counters) {
    return guard([&] {
        require(session, "session");
        write_struct(session->session->counters(), counters, "counters");
    });
}

v2e_status v2e_decoder_session_truncate(v2e_decoder_session *session, size_t length) {
    return guard([&] {
        require(session, "session");
        session->session->truncate(length);
    });
}

v2e_status v2e_decoder_session_save(v2e_decoder_session *session, const char *path, const char *note) {
    return guard([&] {
        require(session, "session");
        require(path, "path");
        session->decoder->decoder->save(*session->session, path, note == nullptr ? "" : note);
    });
}

v2e_status v2e_decoder_session_load(const v2e_decoder *decoder, const char *path,
                                    const v2e_decoder_session_options *options, v2e_decoder_session **session) {
    return guard([&] {
        require(decoder, "decoder");
        require(path, "path");
        require(session, "session");
        *session = nullptr;
        const v2e_decoder_session_options given = read_options(options);
        *session = new v2e_decoder_session{decoder, decoder->decoder->load(path, given)};
    });
}

const char *v2e_decoder_session_note(const v2e_decoder_session *session) {
    return session == nullptr ? "" : session->session->note().c_str();
}

void v2e_decoder_session_cancel(v2e_decoder_session *session) {
    if (session != nullptr)
        session->session->cancel();
}

// Not in a header: for tests, which cancel at a look of a given number and count the looks after it.
extern "C" {
V2E_API void v2e_private_session_cancel_at(v2e_decoder_session *session, uint64_t look);
V2E_API uint64_t v2e_private_session_looks(v2e_decoder_session *session);
}

void v2e_private_session_cancel_at(v2e_decoder_session *session, uint64_t look) {
    session->session->stop_flag().set_at_look(look);
}

uint64_t v2e_private_session_looks(v2e_decoder_session *session) {
    return session->session->stop_flag().looks();
}

void v2e_decoder_session_resume(v2e_decoder_session *session) {
    if (session != nullptr)
        session->session->resume();
}
