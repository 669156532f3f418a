// A text, through a tokenizer that has all bytes: it becomes ids and comes back as its own NFC, whatever it is cut
// into. What is no UTF-8 is refused; as token ids its bytes still stream the same in one call and in many.
#include "base/utf8.hpp"
#include "fuzz/fuzz.hpp"
#include "tests/small_tokenizer.hpp"
#include "text/unicode.hpp"
#include "valley2_parts.h"

#include <vector>

namespace {

const v2e_tokenizer *tokenizer() {
    static const v2e_tokenizer *const opened = [] {
        const std::string content = v2e::small::tokenizer_json();
        v2e_tokenizer *made = nullptr;
        MUST(v2e_tokenizer_parse(content.data(), content.size(), "the tokenizer", &made) == V2E_OK);
        return made;
    }();
    return opened;
}

std::vector<int32_t> encode(std::string_view text, uint32_t with_controls) {
    std::vector<int32_t> ids(4 * text.size() + 1);
    size_t count = 0;
    MUST(v2e_tokenizer_encode(tokenizer(), text.data(), text.size(), with_controls, ids.data(), ids.size(), &count) ==
         V2E_OK);
    MUST(count <= ids.size());
    ids.resize(count);
    return ids;
}

// The text of ids that are pushed so many at a time.
std::string stream(const std::vector<int32_t> &ids, size_t step) {
    v2e_text_stream *opened = nullptr;
    MUST(v2e_text_stream_open(tokenizer(), &opened) == V2E_OK);
    std::string result;
    const char *text = nullptr;
    size_t size = 0;
    for (size_t begin = 0; begin < ids.size(); begin += step) {
        const size_t count = std::min(step, ids.size() - begin);
        MUST(v2e_text_stream_push(opened, ids.data() + begin, count, &text, &size) == V2E_OK);
        MUST(v2e::is_utf8({text, size}));
        result.append(text, size);
    }
    MUST(v2e_text_stream_finish(opened, &text, &size) == V2E_OK);
    result.append(text, size);
    v2e_text_stream_close(opened);
    return result;
}

// What stands before a stop string, with pieces of so many bytes at least and whole characters.
std::string stopped(std::string_view text, std::string_view stop, size_t step) {
    v2e_stop_strings *stops = nullptr;
    const char *strings[] = {stop.data(), "the"};
    const size_t sizes[] = {stop.size(), 3};
    MUST(v2e_stop_strings_open(strings, sizes, 2, &stops) == V2E_OK);
    std::string result;
    const char *kept = nullptr;
    size_t size = 0;
    uint32_t found = 0;
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
        while (end < text.size() && end - begin < step)
            end += v2e::utf8_character(text.substr(end));
        MUST(v2e_stop_strings_push(stops, text.data() + begin, end - begin, &kept, &size, &found) == V2E_OK);
        result.append(kept, size);
    }
    MUST(v2e_stop_strings_finish(stops, &kept, &size) == V2E_OK);
    result.append(kept, size);
    v2e_stop_strings_close(stops);
    MUST(found == 1 || result == text);
    return result;
}

void lay_out(std::string_view text, uint8_t choices) {
    v2e_prompt_layout layout{};
    layout.struct_size = sizeof layout;
    layout.policy = choices & 1;
    layout.strict = choices >> 1 & 1;
    layout.not_wrapped = choices >> 2 & 1;
    v2e_prompt *prompt = nullptr;
    const v2e_prompt_message message{V2E_PROMPT_USER, text.data(), text.size(), size_t{choices} >> 3 & 3};
    MUST(v2e_prompt_open(&layout, &message, 1, &prompt) == V2E_OK);
    const v2e_prompt_part *parts = nullptr;
    size_t count = 0, ids = 0;
    MUST(v2e_prompt_parts(prompt, &parts, &count) == V2E_OK && count > 0);
    MUST(v2e_prompt_encode(tokenizer(), parts, count, layout.strict, nullptr, 0, &ids) == V2E_OK && ids > 0);
    v2e_prompt_close(prompt);
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz::Input input(data, size);
    const uint8_t choices = input.byte(), step = input.byte();
    const std::string_view text = input.rest();
    std::vector<int32_t> bytes;
    for (const char byte : text)
        bytes.push_back(static_cast<unsigned char>(byte));
    MUST(stream(bytes, 1) == stream(bytes, size_t{step} + 1));
    if (!v2e::is_utf8(text)) {
        size_t count = 0;
        MUST(v2e_tokenizer_encode(tokenizer(), text.data(), text.size(), 0, nullptr, 0, &count) == V2E_ERROR_INPUT);
        return 0;
    }
    std::string buffer, back;
    const std::string normalized(v2e::normalize_nfc(text, buffer));
    const std::vector<int32_t> ids = encode(text, 0);
    for (const int32_t id : ids) {
        const char *token = nullptr;
        size_t token_size = 0;
        MUST(v2e_tokenizer_token_bytes(tokenizer(), id, &token, &token_size) == V2E_OK);
        back.append(token, token_size);
    }
    MUST(back == normalized);
    MUST(encode(normalized, 0) == ids);
    encode(text, 1);
    if (!text.empty()) {
        const std::string_view stop = text.substr(0, v2e::utf8_character(text));
        MUST(stopped(normalized, stop, 1) == stopped(normalized, stop, size_t{step} + 1));
    }
    lay_out(text, choices);
    return 0;
}
