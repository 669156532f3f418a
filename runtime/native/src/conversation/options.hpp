// The options of a conversation, with every default filled in.
#pragma once

#include "base/json.hpp"
#include "picture/policy.hpp"
#include "text/prompt.hpp"
#include "valley2.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace v2e {

struct ConversationOptions {
    std::optional<std::string> system; // nothing: the policy's own
    bool think = false;
    uint32_t context_length = 0; // 0: as many positions as the model was trained for
    uint32_t kv_precision = V2E_KV_AUTO;
    uint32_t prefill_chunk = 0;
    uint32_t reuse = V2E_REUSE_AUTO;
    PicturePolicy policy;
    uint64_t max_picture_pixels = 0;

    // The caller's, NULL for the defaults. Fails with V2E_ERROR_INPUT for what is not acceptable.
    static ConversationOptions read(const v2e_session_options *given);
    // Those of a saved session, as Python's SessionOptions has them. Fails with V2E_ERROR_BUNDLE.
    static ConversationOptions parse(const Json &saved);

    // As the header has them; `system` points into this.
    v2e_session_options as_struct() const;
    // As JSON, for a saved session.
    std::string as_json() const;

    PromptLayout layout(bool wrapped) const;
};

// Refuses what is no text, or longer than any context holds. what: at the beginning of a sentence.
void check_text(std::string_view text, const char *what);

} // namespace v2e
