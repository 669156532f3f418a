// What a tokenizer.json holds, checked: nothing in it that this project has not looked at.
#pragma once

#include "text/byte_pairs.hpp"
#include "text/control_tokens.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

struct TokenizerDefinition {
    BytePairTables words;
    std::vector<ControlToken> controls;
    int32_t largest_id = 0; // all ids from 0 to it are there, each once
};

// Fails with V2E_ERROR_BUNDLE when the content is no tokenizer of a Qwen2. `name` is the file in messages.
TokenizerDefinition read_tokenizer(std::string_view content, const std::string &name);

} // namespace v2e
