// A limit on the memory of a model: what it leaves of what is asked for.
#pragma once

#include "conversation/options.hpp"
#include "decoder/device_kind.hpp"
#include "picture/policy.hpp"
#include "plan/gpu_share.hpp"
#include "plan/memory_choice.hpp"
#include "valley2_parts.h"

#include <cstdint>
#include <string>
#include <vector>

namespace v2e {

// Everything that a plan depends on but for the pictures.
struct PlanRequest {
    std::string directory; // of the bundle
    v2e_model_options model{};
    ConversationOptions session;
    PictureArchitecture architecture;
    uint64_t process_bytes = 0;
    bool conversation = false; // pictures may come when the context is full

    uint64_t vision_cache_bytes() const; // most bytes of embeddings that are kept
};

// What a question about pictures takes. Fails with V2E_ERROR_BUDGET when they do not fit the context.
v2e_memory_plan plan_question(const PlanRequest &request, const std::vector<Size> &pictures, bool video,
                              const DeviceKind &devices);
// What a limit leaves; 0: all. Fails with V2E_ERROR_BUDGET when nothing keeps it.
MemoryChoice choose_for(const PlanRequest &request, const std::vector<Size> &pictures, bool video, uint64_t limit_bytes,
                        const DeviceKind &devices);
// Fails with V2E_ERROR_BUDGET when a question about these pictures would not keep the limit.
void check_limit(const PlanRequest &request, const std::vector<Size> &pictures, bool video, uint64_t limit_bytes,
                 const DeviceKind &devices);
// What can be on a GPU together with the vision engines of a backend; `changes` is empty when they are not on it. Fails
// with V2E_ERROR_BUDGET when nothing fits.
GpuShare share_for(const PlanRequest &request, const std::vector<Size> &pictures, const DeviceKind &devices);

// Stands for pictures that nobody has seen yet: a photo of 12 megapixels, which takes all tiles.
inline constexpr Size ANY_PICTURE{3500, 3500};

// Memory of this process before a model is loaded, with what its tokenizer will take. tokenizer_bytes: of its file.
uint64_t expected_process_bytes(uint64_t tokenizer_bytes);

// Writes what a choice leaves into the options.
void apply_choice(const v2e_memory_choice &choice, v2e_model_options &model, ConversationOptions &session);

} // namespace v2e
