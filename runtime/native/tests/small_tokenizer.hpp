// A tokenizer of all bytes, a few merges and control tokens of every kind, for tests and fuzz targets.
#pragma once

#include "text/split.hpp"
#include "text/unicode.hpp"

#include <string>
#include <string_view>

namespace v2e::small {

// A text as a JSON string.
inline std::string json_string(std::string_view text) {
    std::string result = "\"";
    for (const char letter : text)
        result += letter == '"' || letter == '\\' ? std::string("\\") + letter : std::string(1, letter);
    return result + '"';
}

// The character that a vocabulary writes for a byte: GPT-2's table.
inline std::string byte_character(unsigned byte) {
    const auto printable = [](unsigned value) {
        return (value >= 0x21 && value < 0x7f) || (value >= 0xa1 && value < 0xad) || value >= 0xae;
    };
    unsigned hidden = 0;
    for (unsigned value = 0; value < byte; ++value)
        hidden += printable(value) ? 0 : 1;
    std::string character;
    append_character(printable(byte) ? byte : 256 + hidden, character);
    return character;
}

constexpr int FIRST_MERGED = 256, FIRST_CONTROL = 261; // ids

// The ids are the bytes, then the merges' products (th, the, he, in, ing), then the control tokens.
inline std::string vocabulary() {
    std::string text = "{";
    for (unsigned byte = 0; byte < 256; ++byte)
        text += json_string(byte_character(byte)) + ":" + std::to_string(byte) + ",";
    return text + R"("th":256,"the":257,"he":258,"in":259,"ing":260})";
}

inline std::string merges() {
    return R"(["t h",["th","e"],"h e","i n","in g"])";
}

inline std::string controls() {
    return R"([{"id":261,"content":"<|im_start|>","special":true},{"id":262,"content":"<|im_end|>","special":true},)"
           R"({"id":263,"content":"<im_start>"},{"id":264,"content":"<im_end>"},{"id":265,"content":"<w>","single_word":true},)"
           R"({"id":266,"content":"<l>","lstrip":true},{"id":267,"content":"<r>","rstrip":true},)"
           R"({"id":268,"content":"e\u0301!","normalized":true}])";
}

inline std::string tokenizer_json(const std::string &vocabulary, const std::string &merges,
                                  const std::string &controls) {
    return R"({"version":"1.0","added_tokens":)" + controls + R"(,"normalizer":{"type":"NFC"},)" +
           R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)" +
           json_string(SPLIT_PATTERN) + R"(},"behavior":"Isolated","invert":false},{"type":"ByteLevel",)" +
           R"("add_prefix_space":false,"trim_offsets":false,"use_regex":false}]},"model":{"type":"BPE","vocab":)" +
           vocabulary + R"(,"merges":)" + merges + "}}";
}

inline std::string tokenizer_json() {
    return tokenizer_json(vocabulary(), merges(), controls());
}

} // namespace v2e::small
