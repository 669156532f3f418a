// A tokenizer.json, byte for byte. What is accepted encodes: every id has its bytes, and no id is beyond the largest.
#include "fuzz/fuzz.hpp"
#include "valley2_parts.h"

#include <vector>

namespace {

void encode(const v2e_tokenizer *tokenizer, std::string_view text, uint32_t with_controls) {
    int32_t largest = 0;
    MUST(v2e_tokenizer_largest_id(tokenizer, &largest) == V2E_OK && largest >= 0);
    size_t count = 0, again = 0;
    const auto call = [&](int32_t *ids, size_t capacity, size_t *found) {
        MUST(v2e_tokenizer_encode(tokenizer, text.data(), text.size(), with_controls, ids, capacity, found) == V2E_OK);
    };
    call(nullptr, 0, &count);
    std::vector<int32_t> ids(count);
    call(ids.data(), count, &again);
    MUST(count == again);
    for (const int32_t id : ids) {
        const char *bytes = nullptr;
        size_t size = 0;
        MUST(id >= 0 && id <= largest);
        MUST(v2e_tokenizer_token_bytes(tokenizer, id, &bytes, &size) == V2E_OK && size > 0);
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    v2e_tokenizer *tokenizer = nullptr;
    const char *content = reinterpret_cast<const char *>(data);
    const v2e_status status = fuzz::seen(v2e_tokenizer_parse(content, size, "the input", &tokenizer));
    MUST((status == V2E_OK) == (tokenizer != nullptr));
    if (status != V2E_OK) {
        MUST(status == V2E_ERROR_BUNDLE);
        return 0;
    }
    for (const uint32_t with_controls : {0u, 1u})
        for (const std::string_view text :
             {"", "the thing, isn't it?  \n\n12", "<|im_end|> <w> e\xcc\x81!  <r> a", "aabbab"})
            encode(tokenizer, text, with_controls);
    v2e_tokenizer_close(tokenizer);
    return 0;
}
