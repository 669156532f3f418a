// A question on its way to the decoder: token ids, and what becomes of its pictures.
#pragma once

#include "conversation/options.hpp"
#include "conversation/question.hpp"
#include "vision/encoder.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace v2e {

class Model;

struct PreparedQuestion {
    std::vector<int32_t> ids; // with PICTURE_ID where a picture stands
    std::vector<SharedPicture> pictures;
    std::vector<VisionPicture> planned; // of each picture
    std::vector<SharedEmbeddings> embeddings;
    bool video = false;         // of the last message
    size_t last_pictures = 0;   // pictures of the last message
    size_t text_tokens = 0;     // tokens that are no pictures
    uint64_t siglip_tokens = 0; // positions
    uint64_t eagle_tokens = 0;  // positions
    uint32_t tiles = 0;

    uint64_t positions() const { return text_tokens + siglip_tokens + eagle_tokens; }
};

using Warn = std::function<void(const std::string &sentence)>;

// Everything but the embeddings. used: positions that are in the context. Fails with V2E_ERROR_INPUT for a picture that
// cannot be planned, with V2E_ERROR_BUDGET when the question does not fit the context.
PreparedQuestion prepare_question(const Question &question, const ConversationOptions &options, const Model &model,
                                  size_t used, size_t context_length, const Warn &warn);

} // namespace v2e
