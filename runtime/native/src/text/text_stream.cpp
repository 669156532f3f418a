#include "text/text_stream.hpp"

#include "base/utf8.hpp"
#include "text/prompt.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr std::string_view REPLACEMENT = "\xef\xbf\xbd"; // U+FFFD

// Bytes that a character may begin with: all of the text, if a character is unfinished at its end; else those up to
// where it cannot go on, one at least.
size_t beginning_size(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(0);
    if (lead < 0xc2 || lead > 0xf4)
        return 1;
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    // The second byte decides about overlong forms, surrogates and what is above U+10FFFF.
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    size_t size = 1;
    while (size < length && size < text.size() && byte(size) >= (size == 1 ? low : 0x80u) &&
           byte(size) <= (size == 1 ? high : 0xbfu))
        ++size;
    return size;
}

bool is_unfinished(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text[0]);
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    return lead >= 0xc2 && lead <= 0xf4 && text.size() < length && beginning_size(text) == text.size();
}

// Bytes at the end of the text that may be the beginning of <|im_end|>, the whole excluded.
size_t held_size(std::string_view text) {
    size_t size = std::min(text.size(), END_OF_TURN.size() - 1);
    while (!END_OF_TURN.starts_with(text.substr(text.size() - size)))
        --size;
    return size;
}

} // namespace

void Utf8Decoder::push(std::string_view bytes, std::string &text) {
    held_.append(bytes);
    std::string_view rest = held_;
    while (!rest.empty() && !is_unfinished(rest)) {
        if (const size_t whole = utf8_prefix(rest); whole > 0) {
            text.append(rest.substr(0, whole));
            rest.remove_prefix(whole);
        } else {
            text.append(REPLACEMENT);
            rest.remove_prefix(beginning_size(rest));
        }
    }
    held_.erase(0, held_.size() - rest.size());
}

void Utf8Decoder::finish(std::string &text) {
    if (!held_.empty())
        text.append(REPLACEMENT);
    held_.clear();
}

std::string TextStream::push(int32_t token) {
    std::string text;
    decoder_.push(tokenizer_.token_bytes(token), text);
    return release(text);
}

std::string TextStream::finish() {
    std::string text;
    decoder_.finish(text);
    text = release(text);
    text += held_;
    held_.clear();
    return text;
}

std::string TextStream::release(std::string_view text) {
    held_.append(text);
    std::string released;
    size_t begin = 0;
    for (size_t found; (found = held_.find(END_OF_TURN, begin)) != std::string::npos;
         begin = found + END_OF_TURN.size())
        released.append(held_, begin, found - begin);
    const size_t keep = held_size(std::string_view(held_).substr(begin));
    released.append(held_, begin, held_.size() - keep - begin);
    held_.erase(0, held_.size() - keep);
    return released;
}

} // namespace v2e
