#include "conversation/memory_limit.hpp"

#include "base/process_memory.hpp"
#include "conversation/geometry_request.hpp"
#include "generation/prefix_cache.hpp"

namespace v2e {
namespace {

constexpr uint64_t KEPT_BYTES = uint64_t{8} << 20; // freed memory that allocators keep whatever they are told
constexpr uint64_t TOKENIZER_FACTOR = 10;          // memory of a tokenizer by the size of its file
constexpr uint64_t DEFAULT_CACHE_BYTES = uint64_t{256} << 20;

// The options of the plan functions, and what they point to.
class Options {
  public:
    Options(const PlanRequest &request, const std::vector<Size> &pictures, bool video)
        : geometry_(request.session.policy.geometry_options(request.architecture, pictures.size(), video)) {
        for (const Size &size : pictures) {
            v2e_geometry picture{};
            picture.struct_size = sizeof picture;
            picture.width = size.width;
            picture.height = size.height;
            pictures_.push_back(picture);
        }
        const v2e_model_options &model = request.model;
        const ConversationOptions &session = request.session;
        struct_.struct_size = sizeof struct_;
        struct_.context_length = session.context_length;
        struct_.kv_precision = session.kv_precision;
        struct_.prefill_chunk = session.prefill_chunk;
        struct_.threads = model.threads;
        struct_.activations = model.activations;
        struct_.keep_vision = model.keep_vision;
        struct_.conversation = request.conversation;
        struct_.process_bytes = request.process_bytes;
        struct_.pictures = pictures_.data();
        struct_.picture_count = pictures_.size();
        struct_.vision_cache_bytes = request.vision_cache_bytes();
        struct_.prefix_cache_bytes = prefix_cache_budget(model.prefix_cache_bytes, model.no_prefix_cache);
        struct_.no_prefix_cache = struct_.prefix_cache_bytes == 0;
        struct_.device = model.device;
        struct_.gpu_layers = model.gpu_layers;
        struct_.gpu_memory = model.gpu_memory;
        struct_.decoder_backend = model.decoder_backend;
        struct_.vision_backend = model.vision_backend;
        struct_.geometry = geometry_.get();
    }
    Options(const Options &) = delete;
    Options &operator=(const Options &) = delete;

    const v2e_memory_options &get() const { return struct_; }

  private:
    GeometryRequest geometry_;
    std::vector<v2e_geometry> pictures_;
    v2e_memory_options struct_{};
};

} // namespace

uint64_t PlanRequest::vision_cache_bytes() const {
    if (model.no_vision_cache != 0)
        return 0;
    return model.vision_cache_bytes == 0 ? DEFAULT_CACHE_BYTES : model.vision_cache_bytes;
}

v2e_memory_plan plan_question(const PlanRequest &request, const std::vector<Size> &pictures, bool video,
                              const DeviceKind &devices) {
    return plan_memory(request.directory, Options(request, pictures, video).get(), devices);
}

MemoryChoice choose_for(const PlanRequest &request, const std::vector<Size> &pictures, bool video, uint64_t limit_bytes,
                        const DeviceKind &devices) {
    return choose_memory(request.directory, limit_bytes, Options(request, pictures, video).get(), devices);
}

void check_limit(const PlanRequest &request, const std::vector<Size> &pictures, bool video, uint64_t limit_bytes,
                 const DeviceKind &devices) {
    check_memory(request.directory, limit_bytes, Options(request, pictures, video).get(), devices);
}

GpuShare share_for(const PlanRequest &request, const std::vector<Size> &pictures, const DeviceKind &devices) {
    return share_gpu(request.directory, Options(request, pictures, false).get(), devices);
}

uint64_t expected_process_bytes(uint64_t tokenizer_bytes) {
    return resident_bytes() + TOKENIZER_FACTOR * tokenizer_bytes + KEPT_BYTES;
}

void apply_choice(const v2e_memory_choice &choice, v2e_model_options &model, ConversationOptions &session) {
    model.keep_vision = choice.keep_vision;
    model.vision_cache_bytes = choice.vision_cache_bytes;
    model.no_vision_cache = choice.vision_cache_bytes == 0;
    model.prefix_cache_bytes = choice.prefix_cache_bytes;
    model.no_prefix_cache = choice.prefix_cache_bytes == 0;
    session.prefill_chunk = choice.prefill_chunk;
    session.context_length = choice.context_length;
    session.kv_precision = choice.kv_precision;
    session.policy.tiles = session.policy.tiles && choice.no_tiles == 0;
    session.policy.eagle = session.policy.eagle && choice.no_eagle == 0;
    if (choice.eagle_max_tokens != 0)
        session.policy.eagle_max_tokens = choice.eagle_max_tokens;
}

} // namespace v2e
