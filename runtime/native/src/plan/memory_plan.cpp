#include "plan/memory_plan.hpp"

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
#include "vision/open_tower.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

namespace v2e {
namespace {

constexpr uint64_t FLOAT_BYTES = 4;
constexpr uint64_t CHANNELS = 3;
// ONNX Runtime's arena takes more than what is in use at once: it grows by steps and cannot move anything.
constexpr uint64_t ARENA_PERCENT = 150;
// Queries that a block of attention holds scores for: export/vision/onnx_siglip.py, export/vision/onnx_eagle.py.
constexpr uint64_t SIGLIP_BLOCK = 243;
constexpr uint64_t EAGLE_BLOCK = 128;
// Linux maps this much around a page that is touched; a text's tokens lie anywhere in the embedding table.
constexpr uint64_t TOUCHED_BYTES = 64 << 10;
// What the engines that TensorRT-RTX 1.7 builds are larger than their weights in fp16, for each layer: 2.6 to 2.9 MB
// were measured of Eagle's, 0.5 MB of SigLIP's.
constexpr uint64_t ENGINE_LAYER_BYTES = uint64_t{3} << 20;
// A sampling candidate, and the token ids.
constexpr uint64_t SAMPLING_BYTES = 8;

struct Component {
    uint64_t expansion; // factor of a graph whose weights become fp32 when it is loaded: 2 for fp16, 4 for int8; else 1
    Saturating weight_bytes; // as its engine holds them
    std::string tower;       // path of the native tower's file; empty for a graph
};

struct Transformer {
    Saturating width, heads, mlp;
};

class ManifestReader {
  public:
    explicit ManifestReader(const std::string &directory) : directory_(directory), manifest_(directory) {}

    Json architecture() const { return manifest_.architecture(); }

    // Weights in fp16 and int8 are mostly matrices, which take two and four times their file once they are fp32.
    Component component(const char *name) const {
        const Json &entry = manifest_.at(name);
        const std::string &precision = entry.at("precision").string();
        Saturating bytes;
        std::string tower;
        for (const Json &path : entry.at("files").items()) {
            if (path.string().ends_with(".safetensors"))
                tower = directory_ + "/" + path.string();
            bytes += manifest_.at("files").at(path.string()).at("size").unsigned_integer();
        }
        const uint64_t expansion = !tower.empty() ? 1 : precision == "fp16" ? 2 : precision == "int8" ? 4 : 1;
        return {expansion, expansion * bytes, tower};
    }

    Saturating file_bytes(const char *path) const {
        return manifest_.at("files").at(path).at("size").unsigned_integer();
    }

  private:
    std::string directory_;
    Manifest manifest_;
};

Saturating size_of(const Json &object, const char *key) {
    const uint64_t size = object.at(key).unsigned_integer();
    if (size == 0 || size > (uint64_t{1} << 30))
        fail(V2E_ERROR_BUNDLE, "The manifest's %s is out of range.", key);
    return size;
}

// The floats of one token at the two widest points of a layer: attention holds the residual, queries, keys, values, the
// result so far, and scores and probabilities of one block; the MLP holds the residual and its middle twice.
Saturating layer_floats(const Transformer &tower, uint64_t block) {
    return std::max(5 * tower.width + 2 * tower.heads * block, tower.width + 2 * tower.mlp);
}

Saturating in_arena(Saturating bytes) {
    return bytes * ARENA_PERCENT / 100;
}

// Reading a graph makes both forms of its largest tensor before the first is freed; int8 has one between them, the
// levels in fp32.
Saturating loading_bytes(const Component &component, Saturating largest_tensor) {
    if (component.expansion == 1)
        return {};
    const uint64_t stored = FLOAT_BYTES / component.expansion;
    return largest_tensor * (stored + FLOAT_BYTES * (component.expansion == 4 ? 2 : 1));
}

// What a native tower allocates for so many tiles or patches at once, and what it returns.
Saturating tower_work_bytes(const std::string &path, uint32_t threads, Saturating count) {
    v2e_tower_options options{};
    options.struct_size = sizeof options;
    options.threads = threads;
    const std::unique_ptr<Tower> tower = open_tower(path, options);
    return tower->scratch_bytes(count) + tower->output_floats(count) * FLOAT_BYTES;
}

// What the pictures need, by engine.
class VisionPlan {
  public:
    VisionPlan(const ManifestReader &manifest, const v2e_memory_options &options) {
        const Json &architecture = manifest.architecture();
        const Saturating hidden = size_of(architecture.at("decoder"), "hidden_size");
        plan_pictures(architecture, options, hidden);
        if (options.picture_count == 0)
            return;
        threads_ = options.threads;
        plan_siglip(manifest, architecture);
        if (patches_ > 0)
            plan_eagle(manifest, architecture.at("eagle"), hidden);
        if (options.vision_device > V2E_DEVICE_CUDA)
            fail(V2E_ERROR_INPUT, "vision_device is %u, which is no v2e_device.",
                 static_cast<unsigned>(options.vision_device));
        if (options.vision_device == V2E_DEVICE_CUDA)
            move_to_gpu(manifest);
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

    void plan_siglip(const ManifestReader &manifest, const Json &architecture) {
        const Json &siglip = architecture.at("siglip"), &projector = architecture.at("projector");
        const Transformer tower{size_of(siglip, "hidden_size"), size_of(siglip, "num_attention_heads"),
                                size_of(siglip, "intermediate_size")};
        const Saturating side = size_of(siglip, "image_size") / size_of(siglip, "patch_size");
        const Saturating output = size_of(projector, "output_size"), vocabulary = size_of(projector, "mlp_hidden_dim");
        const bool soft = projector.at("type").string() == "ovis_conv_adapter";
        const Saturating tile_side = size_of(projector, "tokens_per_side");
        const Saturating rows = projector.at("type").string() == "conv_adapter" ? side * side : tile_side * tile_side;
        const Saturating middle = soft ? vocabulary : output;

        const Component tower_files = manifest.component("siglip"), adapter_files = manifest.component("projector");
        siglip_ = tower_files.weight_bytes;
        projector_ = adapter_files.weight_bytes;
        const Saturating siglip_run = side * side * layer_floats(tower, SIGLIP_BLOCK) * FLOAT_BYTES;
        const Saturating projector_run = (2 * rows * middle + 2 * side * side * tower.width) * FLOAT_BYTES;
        siglip_run_ = siglip_run + projector_run;
        const Saturating matrix = tower.width * std::max(tower.mlp, 3 * tower.width);
        const Saturating adapter_matrix = std::max(middle, 9 * tower.width) * std::max(output, tower.width);
        const Saturating tower_work = std::max(in_arena(siglip_run), loading_bytes(tower_files, matrix));
        const Saturating adapter_work = std::max(in_arena(projector_run), loading_bytes(adapter_files, adapter_matrix));
        // Graphs give back what a run took; a native tower keeps it while it is loaded.
        if (tower_files.tower.empty() && adapter_files.tower.empty())
            siglip_work_ = std::max(tower_work, adapter_work);
        else
            siglip_work_ = native_or(tower_files, 1, tower_work) + native_or(adapter_files, 1, adapter_work);
    }

    void plan_eagle(const ManifestReader &manifest, const Json &eagle, Saturating hidden) {
        const Saturating width = size_of(eagle, "embed_dim"), merge = size_of(eagle, "spatial_merge_size");
        const Transformer tower{width, size_of(eagle, "num_heads"), width * size_of(eagle, "mlp_ratio")};
        const Component files = manifest.component("eagle");
        eagle_ = files.weight_bytes;
        const Saturating joined = width * merge * merge;
        const Saturating run = patches_ * layer_floats(tower, EAGLE_BLOCK) * FLOAT_BYTES;
        eagle_run_ = run;
        eagle_work_ = native_or(files, patches_,
                                std::max(in_arena(run), loading_bytes(files, joined * std::max(joined, hidden))));
    }

    // TensorRT holds matrices in fp16, and activations that are counted as fp32 although most are not. While an engine
    // is loaded, its file is in the process's memory.
    void move_to_gpu(const ManifestReader &manifest) {
        for (const char *name : {"siglip", "projector", "eagle"})
            if ((name != std::string_view("eagle") || patches_ > 0) && !manifest.component(name).tower.empty())
                fail(V2E_ERROR_INPUT, "The bundle's %s is a native tower, which runs on the CPU alone.", name);
        const Json &architecture = manifest.architecture();
        const Saturating siglip_layers = size_of(architecture.at("siglip"), "num_hidden_layers");
        gpu_.siglip = (siglip_ / 2 + siglip_layers * ENGINE_LAYER_BYTES).value();
        gpu_.projector = (projector_ / 2 + ENGINE_LAYER_BYTES).value();
        gpu_.siglip_work = (siglip_run_ + inputs_).value();
        if (patches_ > 0) {
            gpu_.eagle = (eagle_ / 2 + size_of(architecture.at("eagle"), "depth") * ENGINE_LAYER_BYTES).value();
            gpu_.eagle_work = (eagle_run_ + inputs_).value();
        }
        siglip_work_ = std::max(gpu_.siglip, gpu_.projector);
        eagle_work_ = gpu_.eagle;
        siglip_ = projector_ = eagle_ = Saturating();
    }

    Saturating native_or(const Component &component, Saturating count, Saturating graph_bytes) const {
        return component.tower.empty() ? graph_bytes : tower_work_bytes(component.tower, threads_, count);
    }

    uint32_t threads_ = 0;
    Saturating tokens_, patches_;
    Saturating pixels_, inputs_, embeddings_;
    Saturating siglip_, projector_, eagle_;
    Saturating siglip_work_, eagle_work_;
    Saturating siglip_run_, eagle_run_; // activations of one run
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
                                const GpuVision &vision, const Backend &backend) {
    v2e_model_options model_options{};
    model_options.struct_size = sizeof model_options;
    model_options.threads = 1;
    model_options.isa = V2E_ISA_PORTABLE;
    model_options.activations = options.activations;
    model_options.device = V2E_DEVICE_CPU;
    const NativeModel model(directory, model_options, backend);
    const Decoder &decoder = model.decoder();
    v2e_session_options session_options{};
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
    move_to_gpu(plan_gpu(&decoder, {}, options, context, vision, backend), decoder.config().layers, plan);
    return plan;
}

// What the backend says of itself, and the embeddings and logits that the core has beside it.
DecoderPlan plan_backend_decoder(const ManifestReader &manifest, const v2e_memory_options &options,
                                 const GpuVision &vision, const Backend &backend) {
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
    v2e_memory_options staying = options;
    staying.offload_weights = 0; // its weights do not leave the GPU
    return {context,
            cost.weight_bytes,
            manifest.file_bytes("decoder/embeddings.safetensors").value(),
            cost.kv_bytes,
            0,
            (own + cost.work_bytes).value(),
            true,
            plan_gpu(nullptr, device, staying, context, vision, backend)};
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
                            const Backend &backend) {
    if (options.picture_count > 0 && options.pictures == nullptr)
        fail(V2E_ERROR_INPUT, "picture_count is %zu but pictures is NULL.", options.picture_count);
    const ManifestReader manifest(bundle_directory);
    const VisionPlan vision(manifest, options);
    const DecoderPlan decoder =
        options.decoder_backend != nullptr
            ? plan_backend_decoder(manifest, options, vision.gpu(), backend)
            : plan_native_decoder(bundle_directory + "/decoder", options, vision.gpu(), backend);
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
