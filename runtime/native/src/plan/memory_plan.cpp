#include "plan/memory_plan.hpp"

#include "base/backend_table.hpp"
#include "base/error.hpp"
#include "base/json.hpp"
#include "base/saturating.hpp"
#include "base/thread_pool.hpp"
#include "bundle/manifest.hpp"
#include "decoder/backend_executor.hpp"
#include "decoder/backend_model.hpp"
#include "decoder/decoder.hpp"
#include "decoder/forward.hpp"
#include "decoder/native_model.hpp"
#include "generation/draft_plan.hpp"
#include "generation/session.hpp"
#include "picture/geometry.hpp"
#include "plan/gpu_plan.hpp"
#include "plan/picture_plan.hpp"
#include "vision/open_tower.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace v2e {
namespace {

constexpr uint64_t FLOAT_BYTES = 4;
constexpr uint64_t CHANNELS = 3;
// Linux maps this much around a page that is touched; a text's tokens lie anywhere in the embedding table.
constexpr uint64_t TOUCHED_BYTES = 64 << 10;
// A sampling candidate, and the token ids.
constexpr uint64_t SAMPLING_BYTES = 8;

// What a vision component takes.
struct VisionCost {
    Saturating weights, work;         // of the process's memory
    Saturating gpu_weights, gpu_work; // of a GPU's
    uint64_t gpu_library = 0;
};

// What the pictures need, by engine.
class VisionPlan {
  public:
    VisionPlan(const Manifest &manifest, const v2e_memory_options &options) {
        const Json architecture = manifest.architecture();
        plan_pictures(architecture, options, size_of(architecture.at("decoder"), "hidden_size"));
        if (options.picture_count == 0)
            return;
        const VisionCost siglip = cost_of(manifest, options, V2E_COMPONENT_SIGLIP, 1);
        const VisionCost projector = cost_of(manifest, options, V2E_COMPONENT_PROJECTOR, 1);
        siglip_ = siglip.weights;
        projector_ = projector.weights;
        // They take turns, but a native tower keeps what it works in, and so does an engine on a GPU.
        const bool keeps = options.vision_backend == nullptr;
        siglip_work_ = keeps ? siglip.work + projector.work : std::max(siglip.work, projector.work);
        gpu_.siglip = siglip.gpu_weights.value();
        gpu_.projector = projector.gpu_weights.value();
        gpu_.siglip_work = (siglip.gpu_work + projector.gpu_work).value();
        gpu_.library = std::max(siglip.gpu_library, projector.gpu_library);
        if (patches_ == Saturating())
            return;
        const VisionCost eagle = cost_of(manifest, options, V2E_COMPONENT_EAGLE, patches_);
        eagle_ = eagle.weights;
        eagle_work_ = eagle.work;
        gpu_.eagle = eagle.gpu_weights.value();
        gpu_.eagle_work = eagle.gpu_work.value();
        gpu_.library = std::max(gpu_.library, eagle.gpu_library);
    }

    void write(v2e_memory_plan &plan) const {
        plan.picture_tokens = static_cast<uint32_t>(tokens_.value()); // less than the context
        plan.siglip_bytes = siglip_.value();
        plan.projector_bytes = projector_.value();
        plan.eagle_bytes = eagle_.value();
        plan.siglip_work_bytes = siglip_work_.value();
        plan.eagle_work_bytes = eagle_work_.value();
        plan.picture_bytes = (pixels_ + inputs_ + embeddings_).value();
    }

    const GpuVision &gpu() const { return gpu_; }
    uint64_t tokens() const { return tokens_.value(); }
    Saturating embedding_bytes() const { return embeddings_; }

  private:
    void plan_pictures(const Json &architecture, const v2e_memory_options &options, Saturating hidden) {
        const Saturating side = size_of(architecture.at("siglip"), "image_size");
        Saturating largest_picture;
        for (size_t i = 0; i < options.picture_count; ++i) {
            const v2e_geometry &picture = options.pictures[i];
            if (picture.struct_size < sizeof picture)
                fail(V2E_ERROR_INPUT, "Picture %zu was not planned by v2e_plan_picture of this library.", i);
            const Saturating bytes = Saturating(picture.width) * picture.height * CHANNELS;
            largest_picture = std::max(largest_picture, bytes);
            pixels_ += bytes;
            tokens_ += Saturating(picture.siglip_tokens) + picture.eagle_tokens;
            patches_ = std::max<Saturating>(patches_, picture.eagle_patches);
            const Saturating tiles = side * CHANNELS * picture.tile_count * side * FLOAT_BYTES;
            const uint64_t patch = CHANNELS * EAGLE_PATCH_SIZE * EAGLE_PATCH_SIZE * FLOAT_BYTES + 2 * sizeof(int64_t);
            inputs_ = std::max({inputs_, tiles, Saturating(picture.eagle_patches) * patch});
        }
        // Resized copies and Pillow's own pixels are those of one picture at a time.
        pixels_ += largest_picture;
        embeddings_ = 2 * tokens_ * hidden * FLOAT_BYTES; // by engine, then joined
    }

    // For runs of so many tiles or patches.
    static VisionCost cost_of(const Manifest &manifest, const v2e_memory_options &options, v2e_component component,
                              Saturating count) {
        if (options.vision_backend != nullptr) {
            const BackendTable table(options.vision_backend, "vision_backend");
            const v2e_backend_cost cost = table.cost(component, count.value(), 0);
            return {cost.weight_bytes, cost.work_bytes, cost.gpu_weight_bytes, cost.gpu_work_bytes,
                    cost.gpu_library_bytes};
        }
        v2e_tower_options tower_options{};
        tower_options.struct_size = sizeof tower_options;
        tower_options.threads = options.threads;
        const std::unique_ptr<NativeTower> tower =
            open_tower(manifest.tower_path(component_name(component)), TowerOptions(tower_options, nullptr));
        return {
            tower->mapped_bytes(), tower->scratch_bytes(count) + tower->output_floats(count) * FLOAT_BYTES, {}, {}, 0};
    }

    Saturating tokens_, patches_;
    Saturating pixels_, inputs_, embeddings_;
    Saturating siglip_, projector_, eagle_;
    Saturating siglip_work_, eagle_work_;
    GpuVision gpu_;
};

// LinearScratch.
uint64_t linear_scratch_bytes(const Decoder &decoder, uint64_t rows, unsigned threads, bool two_planes) {
    uint64_t input = linear_bytes(decoder.head(), rows, two_planes), middle = 0;
    for (const DecoderLayer &layer : decoder.layers()) {
        for (const Matrix *matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
            input = std::max<uint64_t>(input, linear_bytes(*matrix, rows, two_planes));
        middle = std::max<uint64_t>(middle, feed_forward_bytes(layer.gate_up, layer.down, rows, two_planes));
    }
    return input + middle + linear_block_bytes(rows, threads);
}

// The logits of the longest draft, and of the prefill that comes after it, with what sampling takes.
uint64_t logits_bytes(const DecoderSizes &sizes) {
    return sizes.vocabulary_size * ((2 + DraftPlan::MOST_DRAFTED) * FLOAT_BYTES + SAMPLING_BYTES);
}

// For chunks of `rows` positions, in a session of `positions` at most.
uint64_t scratch_bytes(const Decoder &decoder, uint64_t rows, uint64_t positions, unsigned threads, bool two_planes) {
    const DecoderConfig &config = decoder.config();
    constexpr uint64_t DRAFT_ROWS = 1 + DraftPlan::MOST_DRAFTED;
    rows = std::max(rows, DRAFT_ROWS);
    const uint64_t floats = 2 * config.hidden_size + config.qkv_size() + config.query_size() + config.head_size;
    const uint64_t linear = linear_scratch_bytes(decoder, rows, threads, two_planes);
    const uint64_t attention = (threads * attention_scratch_floats(config.head_size) +
                                split_attention_floats(config, rows, positions, threads)) *
                               FLOAT_BYTES;
    return rows * floats * FLOAT_BYTES + linear + attention + logits_bytes(config);
}

// What the decoder needs, whichever engine computes it.
struct DecoderPlan {
    uint64_t context;
    uint64_t weight_bytes;
    uint64_t embedding_file_bytes;
    uint64_t kv_bytes;
    uint64_t kv_page_bytes; // 0: sessions share no pages
    uint64_t scratch_bytes;
    bool stays;  // its weights are no pages of a file that go when others need the room
    GpuPlan gpu; // what is not with the CPU; the sizes above leave that out
};

// Moves to the GPU what is not with the CPU; sessions on a GPU share no pages.
void move_to_gpu(const GpuPlan &gpu, uint64_t layers, DecoderPlan &plan) {
    plan.gpu = gpu;
    if (gpu.decoder.layers == 0)
        return;
    plan.weight_bytes -= std::min(plan.weight_bytes, gpu.decoder.weight_bytes);
    plan.kv_bytes -= plan.kv_bytes / layers * gpu.decoder.layers;
    plan.kv_page_bytes = 0;
}

DecoderPlan plan_native_decoder(const std::string &directory, const v2e_memory_options &options,
                                const GpuVision &vision, const DeviceKind &devices) {
    v2e_decoder_options model_options{};
    model_options.struct_size = sizeof model_options;
    model_options.threads = 1;
    model_options.isa = V2E_ISA_PORTABLE;
    model_options.activations = options.activations;
    model_options.device = V2E_DEVICE_CPU;
    const NativeModel model(directory, model_options, devices);
    const Decoder &decoder = model.decoder();
    v2e_decoder_session_options session_options{};
    session_options.struct_size = sizeof session_options;
    session_options.context_length = options.context_length;
    session_options.kv_precision = options.kv_precision;
    session_options.prefill_chunk = options.prefill_chunk;
    const Session session(model, session_options);
    const uint64_t context = session.context_length();
    const uint64_t scratch =
        scratch_bytes(decoder, std::min<uint64_t>(session.prefill_chunk(), context), context,
                      chosen_threads(options.threads), options.activations == V2E_ACTIVATIONS_INT16);
    DecoderPlan plan{context,
                     decoder.weight_file_bytes(),
                     model.embeddings().mapped_bytes(),
                     session.kv_bytes_of(context),
                     session.kv_bytes_of(1),
                     scratch,
                     false,
                     {}};
    move_to_gpu(plan_gpu(&decoder, {}, options, context, vision, devices), decoder.config().layers, plan);
    return plan;
}

// What the backend says of itself, and the embeddings and logits that the core has beside it.
DecoderPlan plan_backend_decoder(const Manifest &manifest, const v2e_memory_options &options, const GpuVision &vision,
                                 const DeviceKind &devices) {
    const BackendTable table(options.decoder_backend, "decoder_backend");
    require_own_precision(table, options.kv_precision);
    const DecoderSizes sizes = read_decoder_sizes(manifest.architecture().at("decoder"), "The manifest's decoder");
    const uint64_t context = options.context_length == 0 ? sizes.max_context : options.context_length;
    if (context > sizes.max_context)
        fail(V2E_ERROR_INPUT, "context_length is %llu, but the model was trained for %zu positions.",
             static_cast<unsigned long long>(context), sizes.max_context);
    const uint64_t chunk = options.prefill_chunk == 0 ? BackendExecutor::DEFAULT_CHUNK : options.prefill_chunk;
    const uint64_t rows = std::max<uint64_t>(std::min(chunk, context), 1 + DraftPlan::MOST_DRAFTED);
    const v2e_backend_cost cost = table.cost(V2E_COMPONENT_DECODER, rows, context);
    const Saturating own = Saturating(rows) * sizes.hidden_size * FLOAT_BYTES + logits_bytes(sizes);
    const bool on_gpu = cost.gpu_weight_bytes > 0 || cost.gpu_work_bytes > 0 || cost.gpu_kv_bytes > 0;
    const DevicePlan device{on_gpu ? sizes.layers : 0, cost.gpu_weight_bytes, cost.gpu_kv_bytes, cost.gpu_work_bytes};
    GpuVision shared = vision; // one library may serve both
    shared.library = std::max(shared.library, cost.gpu_library_bytes);
    v2e_memory_options staying = options;
    staying.offload_weights = 0; // its weights do not leave the GPU
    return {context,
            cost.weight_bytes,
            manifest.file_bytes("decoder/embeddings.safetensors").value(),
            cost.kv_bytes,
            0,
            (own + cost.work_bytes).value(),
            true,
            plan_gpu(nullptr, device, staying, context, shared, devices)};
}

// What each phase of the question takes at most, from the sizes of its parts.
void plan_phases(const v2e_memory_options &options, const VisionPlan &vision, const DecoderPlan &decoder,
                 v2e_memory_plan &plan) {
    const Saturating decoder_bytes = Saturating(plan.decoder_bytes) + plan.embedding_bytes;
    const Saturating engines = Saturating(plan.siglip_bytes) + plan.projector_bytes + plan.eagle_bytes;
    const bool pictures = options.picture_count > 0, keep_vision = options.keep_vision != 0;
    // What earlier turns left beside the vision engines.
    Saturating earlier;
    if (options.conversation != 0)
        earlier = Saturating(plan.kv_bytes) + plan.scratch_bytes + plan.vision_cache_bytes + plan.prefix_cache_bytes;
    const bool decoder_stays = keep_vision && options.conversation != 0;
    const Saturating beside = earlier + plan.process_bytes +
                              (decoder_stays   ? decoder_bytes
                               : decoder.stays ? Saturating(plan.decoder_bytes)
                                               : Saturating());
    if (pictures) {
        plan.tiles_phase_bytes =
            (beside + plan.picture_bytes + plan.siglip_work_bytes + plan.siglip_bytes + plan.projector_bytes +
             (keep_vision && options.conversation != 0 ? plan.eagle_bytes : 0))
                .value();
    }
    if (plan.eagle_bytes > 0 || plan.eagle_work_bytes > 0)
        plan.eagle_phase_bytes = (beside + plan.picture_bytes + plan.eagle_work_bytes +
                                  (keep_vision ? engines : Saturating(plan.eagle_bytes)))
                                     .value();
    plan.answer_phase_bytes =
        (decoder_bytes + plan.process_bytes + plan.kv_bytes + plan.scratch_bytes + vision.embedding_bytes() +
         plan.vision_cache_bytes + plan.prefix_cache_bytes + (keep_vision ? engines : Saturating()))
            .value();
    plan.peak_bytes = std::max({plan.tiles_phase_bytes, plan.eagle_phase_bytes, plan.answer_phase_bytes});
}

} // namespace

v2e_memory_plan plan_memory(const std::string &bundle_directory, const v2e_memory_options &options,
                            const DeviceKind &devices) {
    if (options.geometry != nullptr) {
        const std::vector<v2e_geometry> pictures =
            plan_pictures(options.pictures, options.picture_count, complete_options(options.geometry));
        v2e_memory_options planned = options;
        planned.geometry = nullptr;
        planned.pictures = pictures.data();
        return plan_memory(bundle_directory, planned, devices);
    }
    if (options.picture_count > 0 && options.pictures == nullptr)
        fail(V2E_ERROR_INPUT, "picture_count is %zu but pictures is NULL.", options.picture_count);
    const Manifest manifest(bundle_directory);
    const VisionPlan vision(manifest, options);
    const DecoderPlan decoder =
        options.decoder_backend != nullptr
            ? plan_backend_decoder(manifest, options, vision.gpu(), devices)
            : plan_native_decoder(bundle_directory + "/decoder", options, vision.gpu(), devices);
    const uint64_t context = decoder.context;
    if (vision.tokens() >= context)
        fail(V2E_ERROR_BUDGET, "The pictures need %llu positions, but the context holds %llu.",
             static_cast<unsigned long long>(vision.tokens()), static_cast<unsigned long long>(context));

    v2e_memory_plan plan{};
    plan.struct_size = sizeof plan;
    plan.context_length = static_cast<uint32_t>(context);
    plan.process_bytes = options.process_bytes;
    plan.decoder_bytes = decoder.weight_bytes;
    // Every other token of a text is taken to be one that did not occur before.
    plan.embedding_bytes =
        std::min<uint64_t>(decoder.embedding_file_bytes, (context - vision.tokens()) / 2 * TOUCHED_BYTES);
    plan.kv_bytes = decoder.kv_bytes;
    plan.scratch_bytes = decoder.scratch_bytes;
    vision.write(plan);
    decoder.gpu.write(vision.gpu(), plan);

    // The question's own embeddings count as such, whether they are kept or not.
    plan.vision_cache_bytes = options.conversation == 0 ? 0 : options.vision_cache_bytes;
    // A first prompt leaves its last page, and the answer goes on in a copy.
    const uint64_t page = decoder.kv_page_bytes,
                   budget = prefix_cache_budget(options.prefix_cache_bytes, options.no_prefix_cache),
                   left = page == 0 ? 0 : budget;
    plan.prefix_cache_bytes = options.conversation != 0 ? left : left >= page ? page : 0;
    plan_phases(options, vision, decoder, plan);
    return plan;
}

} // namespace v2e
