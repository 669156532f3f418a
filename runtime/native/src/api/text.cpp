// The functions of valley2_parts.h about text and prompts.
#include "api/arguments.hpp"
#include "api/handles.hpp"
#include "text/prompt.hpp"
#include "text/stop_strings.hpp"
#include "text/text_stream.hpp"
#include "text/tokenizer.hpp"
#include "valley2_model_parts.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct v2e_tokenizer {
    std::shared_ptr<const v2e::Tokenizer> tokenizer;
};

struct v2e_text_stream {
    v2e::TextStream stream;
    std::string text; // what the last call gave out
};

struct v2e_stop_strings {
    v2e::StopStrings stops;
    std::string kept; // what the last call gave out
};

struct v2e_prompt {
    v2e::PromptParts parts;
    std::vector<v2e_prompt_part> view; // of the parts
};

using namespace v2e;

static_assert(static_cast<int>(V2E_PROMPT_REPO) == static_cast<int>(PromptPolicy::repo));
static_assert(static_cast<int>(V2E_PROMPT_ASSISTANT) == static_cast<int>(PromptRole::assistant));
static_assert(static_cast<int>(V2E_PROMPT_PICTURE) == static_cast<int>(PromptPart::Kind::picture));

namespace {

// A text of the caller's; NULL where it is empty.
std::string_view read_text(const char *text, size_t size, const char *name) {
    if (size > 0)
        require(text, name);
    return {text, size};
}

// As many ids as the caller has room for.
void write_ids(const std::vector<int32_t> &found, int32_t *ids, size_t capacity, size_t *count) {
    require(count, "count");
    if (capacity > 0)
        require(ids, "ids");
    std::copy_n(found.begin(), std::min(capacity, found.size()), ids);
    *count = found.size();
}

const Tokenizer &tokenizer_of(const v2e_tokenizer *handle) {
    require(handle, "tokenizer");
    return *handle->tokenizer;
}

PromptLayout read_layout(const v2e_prompt_layout *layout) {
    const v2e_prompt_layout given = read_options(layout);
    if (given.policy > V2E_PROMPT_REPO)
        fail(V2E_ERROR_INPUT, "There is no policy %u of prompts.", given.policy);
    return {static_cast<PromptPolicy>(given.policy), given.strict != 0, given.not_wrapped == 0};
}

v2e_prompt *made_prompt(PromptParts &&parts) {
    auto prompt = std::make_unique<v2e_prompt>();
    prompt->parts = std::move(parts);
    for (const PromptPart &part : prompt->parts)
        prompt->view.push_back({static_cast<uint32_t>(part.kind), part.text.data(), part.text.size()});
    return prompt.release();
}

} // namespace

v2e_status v2e_tokenizer_parse(const char *content, size_t size, const char *name, v2e_tokenizer **tokenizer) {
    return guard([&] {
        require(tokenizer, "tokenizer");
        *tokenizer = nullptr;
        require(name, "name");
        *tokenizer = new v2e_tokenizer{
            std::make_shared<const Tokenizer>(Tokenizer::parse(read_text(content, size, "content"), name))};
    });
}

v2e_status v2e_tokenizer_open(const char *path, v2e_tokenizer **tokenizer) {
    return guard([&] {
        require(tokenizer, "tokenizer");
        *tokenizer = nullptr;
        require(path, "path");
        *tokenizer = new v2e_tokenizer{std::make_shared<const Tokenizer>(Tokenizer::open(path))};
    });
}

v2e_status v2e_model_tokenizer(const v2e_model *model, v2e_tokenizer **tokenizer) {
    return guard([&] {
        require(model, "model");
        require(tokenizer, "tokenizer");
        *tokenizer = new v2e_tokenizer{{model->model, &model->model->tokenizer()}};
    });
}

void v2e_tokenizer_close(v2e_tokenizer *tokenizer) {
    delete tokenizer;
}

v2e_status v2e_tokenizer_encode(const v2e_tokenizer *tokenizer, const char *text, size_t size, uint32_t with_controls,
                                int32_t *ids, size_t capacity, size_t *count) {
    return guard([&] {
        const Tokenizer &used = tokenizer_of(tokenizer);
        const std::string_view given = read_text(text, size, "text");
        std::vector<int32_t> found;
        if (with_controls != 0)
            used.encode_with_controls(given, found);
        else
            used.encode_text(given, found);
        write_ids(found, ids, capacity, count);
    });
}

v2e_status v2e_tokenizer_token_bytes(const v2e_tokenizer *tokenizer, int32_t token, const char **bytes, size_t *size) {
    return guard([&] {
        require(bytes, "bytes");
        require(size, "size");
        const std::string_view found = tokenizer_of(tokenizer).token_bytes(token);
        *bytes = found.data();
        *size = found.size();
    });
}

v2e_status v2e_tokenizer_find_control(const v2e_tokenizer *tokenizer, const char *content, size_t size,
                                      int32_t *token) {
    return guard([&] {
        require(token, "token");
        *token = tokenizer_of(tokenizer).find_control(read_text(content, size, "content")).value_or(-1);
    });
}

v2e_status v2e_tokenizer_largest_id(const v2e_tokenizer *tokenizer, int32_t *largest) {
    return guard([&] {
        require(largest, "largest");
        *largest = tokenizer_of(tokenizer).largest_id();
    });
}

v2e_status v2e_text_stream_open(const v2e_tokenizer *tokenizer, v2e_text_stream **stream) {
    return guard([&] {
        require(stream, "stream");
        *stream = nullptr;
        *stream = new v2e_text_stream{TextStream(tokenizer_of(tokenizer)), {}};
    });
}

void v2e_text_stream_close(v2e_text_stream *stream) {
    delete stream;
}

v2e_status v2e_text_stream_push(v2e_text_stream *stream, const int32_t *tokens, size_t count, const char **text,
                                size_t *size) {
    return guard([&] {
        require(stream, "stream");
        require(text, "text");
        require(size, "size");
        if (count > 0)
            require(tokens, "tokens");
        stream->text.clear();
        for (size_t index = 0; index < count; ++index)
            stream->text += stream->stream.push(tokens[index]);
        *text = stream->text.data();
        *size = stream->text.size();
    });
}

v2e_status v2e_text_stream_finish(v2e_text_stream *stream, const char **text, size_t *size) {
    return guard([&] {
        require(stream, "stream");
        require(text, "text");
        require(size, "size");
        stream->text = stream->stream.finish();
        *text = stream->text.data();
        *size = stream->text.size();
    });
}

v2e_status v2e_stop_strings_open(const char *const *strings, const size_t *sizes, size_t count,
                                 v2e_stop_strings **stops) {
    return guard([&] {
        require(stops, "stops");
        *stops = nullptr;
        std::vector<std::string> given;
        if (count > StopStrings::MOST_STRINGS)
            fail(V2E_ERROR_INPUT, "There are %zu stop strings; at most %zu are taken.", count,
                 StopStrings::MOST_STRINGS);
        if (count > 0) {
            require(strings, "strings");
            require(sizes, "sizes");
        }
        for (size_t index = 0; index < count; ++index)
            given.emplace_back(read_text(strings[index], sizes[index], "strings"));
        *stops = new v2e_stop_strings{StopStrings(std::move(given)), {}};
    });
}

void v2e_stop_strings_close(v2e_stop_strings *stops) {
    delete stops;
}

v2e_status v2e_stop_strings_push(v2e_stop_strings *stops, const char *text, size_t size, const char **kept,
                                 size_t *kept_size, uint32_t *stopped) {
    return guard([&] {
        require(stops, "stops");
        require(kept, "kept");
        require(kept_size, "kept_size");
        require(stopped, "stopped");
        stops->kept = stops->stops.push(read_text(text, size, "text"));
        *kept = stops->kept.data();
        *kept_size = stops->kept.size();
        *stopped = stops->stops.stopped() ? 1 : 0;
    });
}

v2e_status v2e_stop_strings_finish(v2e_stop_strings *stops, const char **kept, size_t *kept_size) {
    return guard([&] {
        require(stops, "stops");
        require(kept, "kept");
        require(kept_size, "kept_size");
        stops->kept = stops->stops.finish();
        *kept = stops->kept.data();
        *kept_size = stops->kept.size();
    });
}

v2e_status v2e_prompt_open(const v2e_prompt_layout *layout, const v2e_prompt_message *messages, size_t count,
                           v2e_prompt **prompt) {
    return guard([&] {
        require(prompt, "prompt");
        *prompt = nullptr;
        if (count > 0)
            require(messages, "messages");
        std::vector<PromptMessage> given;
        for (size_t index = 0; index < count; ++index) {
            const v2e_prompt_message &message = messages[index];
            if (message.role > V2E_PROMPT_ASSISTANT)
                fail(V2E_ERROR_INPUT, "There is no role %u of messages.", message.role);
            given.push_back({static_cast<PromptRole>(message.role),
                             std::string(read_text(message.text, message.size, "text")), message.picture_count});
        }
        *prompt = made_prompt(conversation_prompt(given, read_layout(layout)));
    });
}

v2e_status v2e_prompt_open_next(const v2e_prompt_layout *layout, const char *question, size_t size,
                                size_t picture_count, v2e_prompt **prompt) {
    return guard([&] {
        require(prompt, "prompt");
        *prompt = nullptr;
        const std::string_view text = read_text(question, size, "question");
        *prompt = made_prompt(next_turn_prompt(text, picture_count, read_layout(layout)));
    });
}

void v2e_prompt_close(v2e_prompt *prompt) {
    delete prompt;
}

v2e_status v2e_prompt_parts(const v2e_prompt *prompt, const v2e_prompt_part **parts, size_t *count) {
    return guard([&] {
        require(prompt, "prompt");
        require(parts, "parts");
        require(count, "count");
        *parts = prompt->view.data();
        *count = prompt->view.size();
    });
}

v2e_status v2e_prompt_encode(const v2e_tokenizer *tokenizer, const v2e_prompt_part *parts, size_t part_count,
                             uint32_t strict, int32_t *ids, size_t capacity, size_t *count) {
    return guard([&] {
        const Tokenizer &used = tokenizer_of(tokenizer);
        if (part_count > 0)
            require(parts, "parts");
        PromptParts given;
        for (size_t index = 0; index < part_count; ++index) {
            if (parts[index].kind > V2E_PROMPT_PICTURE)
                fail(V2E_ERROR_INPUT, "There is no kind %u of a prompt's parts.", parts[index].kind);
            given.push_back({static_cast<PromptPart::Kind>(parts[index].kind),
                             std::string(read_text(parts[index].text, parts[index].size, "text"))});
        }
        write_ids(encode_prompt(given, used, strict != 0), ids, capacity, count);
    });
}
