// Qwen2's cut of a text before the merges: words with the character before them, digits one by one.
#pragma once

#include <cstddef>
#include <string_view>

namespace v2e {

// The pattern that every tokenizer.json must have, and that next_word carries out.
inline constexpr std::string_view SPLIT_PATTERN =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Where the word ends that begins at a place of a text that is UTF-8; all words of a text take time in proportion to
// it.
size_t next_word(std::string_view text, size_t begin);

} // namespace v2e
