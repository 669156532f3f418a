// The functions of valley2.h about models and sessions.
#include "arguments.hpp"
#include "decoder.hpp"
#include "platform.hpp"
#include "prefix_cache.hpp"
#include "session.hpp"
#include "valley2.h"

struct v2e_model {
    v2e::Decoder decoder;
    mutable v2e::PrefixCache prefixes; // changes no answer
};

struct v2e_session {
    v2e::Session session;
};

using namespace v2e;

namespace {

constexpr uint64_t DEFAULT_PREFIX_CACHE_BYTES = uint64_t{256} << 20;

} // namespace

v2e_status v2e_model_open(const char *decoder_directory, const v2e_model_options *options, v2e_model **model) {
    return guard([&] {
        require(decoder_directory, "decoder_directory");
        require(model, "model");
        *model = nullptr;
        const v2e_model_options given = read_options(options);
        const uint64_t budget = given.prefix_cache_bytes == 0 ? DEFAULT_PREFIX_CACHE_BYTES : given.prefix_cache_bytes;
        *model = new v2e_model{Decoder(decoder_directory, given), PrefixCache(budget)};
    });
}

v2e_status v2e_model_describe(const v2e_model *model, v2e_model_description *description) {
    return guard([&] {
        require(model, "model");
        write_struct(model->decoder.describe(), description, "description");
    });
}

v2e_status v2e_model_embed(const v2e_model *model, const int32_t *tokens, size_t count, float *embeddings) {
    return guard([&] {
        require(model, "model");
        if (count == 0)
            return;
        require(tokens, "tokens");
        require(embeddings, "embeddings");
        model->decoder.check_tokens(tokens, count);
        model->decoder.embed(tokens, count, embeddings);
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
        model->decoder.drop_pages();
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
        *session = new v2e_session{Session(model->decoder, read_options(options), &model->prefixes)};
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
    return session == nullptr ? 0 : session->session.kv_bytes();
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

void v2e_session_cancel(v2e_session *session) {
    if (session != nullptr)
        session->session.cancel();
}

void v2e_session_resume(v2e_session *session) {
    if (session != nullptr)
        session->session.resume();
}
