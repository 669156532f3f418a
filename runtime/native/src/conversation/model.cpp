#include "conversation/model.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"
#include "bundle/verified_files.hpp"
#include "decoder/backend_model.hpp"
#include "decoder/native_model.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace v2e {
namespace {

constexpr const char *TOKENIZER_FILE = "tokenizer/tokenizer.json";
constexpr const char *DECODER_FILE = "decoder/decoder.safetensors";
constexpr const char *EMBEDDINGS_FILE = "decoder/embeddings.safetensors";
constexpr std::array<const char *, VISION_COMPONENTS> COMPONENTS = {"siglip", "projector", "eagle"};
constexpr size_t MOST_STOP_TOKENS = 64;
constexpr uint32_t PLANNED_CONTEXT = 4096; // positions that must fit beside the weights on a GPU

void tell(const LoadProgress &progress, v2e_event_kind kind, uint64_t done, uint64_t total) {
    if (progress && !progress(kind, done, total))
        fail(V2E_ERROR_CANCELLED, "Opening the model was cancelled.");
}

Bundle open_bundle(const std::string &directory, const v2e_model_options &given, const LoadProgress &progress) {
    if (given.check > V2E_CHECK_SIZES)
        fail(V2E_ERROR_INPUT, "check is %u, which is no v2e_check.", static_cast<unsigned>(given.check));
    const std::string record = given.verified_files == nullptr ? VerifiedFiles::usual_path() : given.verified_files;
    const auto check = given.check == V2E_CHECK_AUTO ? V2E_CHECK_QUICK : static_cast<v2e_check>(given.check);
    return Bundle(directory, check, record,
                  [&](uint64_t done, uint64_t total) { return !progress || progress(V2E_EVENT_CHECK, done, total); });
}

// With a limit on memory the towers stay unless that is given up.
v2e_model_options wanted_options(v2e_model_options given) {
    if (given.memory != 0)
        given.keep_vision = 1;
    given.cancel = nullptr; // what belongs to the call that opens
    given.callback = nullptr;
    given.user_data = nullptr;
    given.verified_files = nullptr;
    return given;
}

uint32_t small_size(const Json &object, const char *key) {
    return static_cast<uint32_t>(size_of(object, key).value());
}

} // namespace

Model::Model(const std::string &directory, const v2e_model_options &given, const DeviceKind &devices,
             const LoadProgress &progress)
    : devices_(devices), bundle_(open_bundle(directory, given, progress)),
      process_bytes_(expected_process_bytes(bundle_.stamp(TOKENIZER_FILE).size)), given_(wanted_options(given)) {
    read_architecture();
    share_gpu_memory();
    if (given_.memory != 0) {
        ConversationOptions defaults = ConversationOptions::read(nullptr);
        const MemoryChoice choice = choose_for(request(defaults), {ANY_PICTURE}, false, given_.memory, devices_);
        apply_choice(choice.options, given_, defaults);
    }
    tell(progress, V2E_EVENT_LOAD, 0, 2);
    tokenizer_ = open_tokenizer();
    tell(progress, V2E_EVENT_LOAD, 1, 2);
    decoder_ = open_decoder();
    check_sizes();
    vision_ = open_vision();
    tell(progress, V2E_EVENT_LOAD, 2, 2);
}

std::shared_ptr<Model> Model::open(const std::string &directory, const v2e_model_options &given,
                                   const DeviceKind &devices, const LoadProgress &progress) {
    return std::shared_ptr<Model>(new Model(directory, given, devices, progress));
}

void Model::read_architecture() {
    const Json architecture = bundle_.manifest().architecture();
    pictures_ = PictureArchitecture::read(architecture);
    wraps_pictures_ = architecture.at("picture").at("use_special_start_end_token").boolean();
    visual_vocabulary_ = size_of(architecture.at("projector"), "mlp_hidden_dim").value();
    max_context_ = small_size(architecture.at("decoder"), "max_position_embeddings");
    const uint32_t vocabulary = small_size(architecture.at("decoder"), "vocab_size");
    for (const Json &token : architecture.at("stop_tokens").items()) {
        const uint64_t id = token.unsigned_integer();
        if (id >= vocabulary || stop_tokens_.size() == MOST_STOP_TOKENS)
            fail(V2E_ERROR_BUNDLE, "%s: the stop tokens are not acceptable; export the bundle again.",
                 bundle_.directory().c_str());
        stop_tokens_.push_back(static_cast<int32_t>(id));
    }
    if (stop_tokens_.empty())
        fail(V2E_ERROR_BUNDLE, "%s has no stop tokens; export the bundle again.", bundle_.directory().c_str());
    const std::string engine = bundle_.manifest().decoder().at("engine").string();
    if (engine != "native" && given_.decoder_backend == nullptr)
        fail(V2E_ERROR_INPUT,
             "The decoder of %s is made for ONNX Runtime, which the library does not run by itself; "
             "export the bundle with --decoder-engine native.",
             bundle_.directory().c_str());
}

// What stays on a GPU that a vision backend computes on as well.
void Model::share_gpu_memory() {
    if (given_.vision_backend == nullptr || given_.device == V2E_DEVICE_CPU)
        return;
    ConversationOptions session = ConversationOptions::read(nullptr);
    session.context_length = std::min(PLANNED_CONTEXT, max_context_);
    const GpuShare share = share_for(request(session), {ANY_PICTURE}, devices_);
    if (share.options.changes[0] == '\0')
        return; // it is not on the GPU
    given_.keep_vision = share.options.keep_vision;
    offloads_weights_ = share.options.offload_weights != 0;
    given_.gpu_layers = share.plan.gpu_layers;
    // Without a layer on the GPU the decoder may look for room in what is left, and say that there is none.
    if (share.plan.gpu_layers == 0) {
        const uint64_t memory = share.plan.gpu_memory_bytes;
        given_.gpu_memory = memory > share.plan.gpu_bytes ? memory - share.plan.gpu_bytes : 1;
    }
}

Tokenizer Model::open_tokenizer() const {
    const std::string content = bundle_.read(TOKENIZER_FILE, Tokenizer::MOST_FILE_BYTES);
    Tokenizer tokenizer = Tokenizer::parse(content, bundle_.path(TOKENIZER_FILE));
    const uint32_t vocabulary = small_size(bundle_.manifest().architecture().at("decoder"), "vocab_size");
    if (tokenizer.largest_id() >= static_cast<int64_t>(vocabulary))
        fail(V2E_ERROR_BUNDLE, "%s has a token %d, but the decoder has %u tokens only.",
             bundle_.path(TOKENIZER_FILE).c_str(), static_cast<int>(tokenizer.largest_id()),
             static_cast<unsigned>(vocabulary));
    return tokenizer;
}

std::unique_ptr<LoadedDecoder> Model::open_decoder() const {
    v2e_decoder_options options{};
    options.struct_size = sizeof options;
    options.threads = given_.threads;
    options.activations = given_.activations;
    options.prefix_cache_bytes = given_.prefix_cache_bytes;
    options.no_prefix_cache = given_.no_prefix_cache;
    options.embeddings_stamp = &bundle_.stamp(EMBEDDINGS_FILE);
    options.backend = given_.decoder_backend;
    const std::string directory = bundle_.directory() + "/decoder";
    const std::string identity = bundle_identity(bundle_.directory());
    if (options.backend != nullptr)
        return std::make_unique<LoadedDecoder>(std::make_unique<BackendModel>(directory, options), options, identity);
    options.isa = given_.isa;
    options.device = given_.device;
    options.gpu_layers = given_.gpu_layers;
    options.gpu_context = given_.gpu_context;
    options.gpu_memory = given_.gpu_memory;
    options.offload_weights = offloads_weights_;
    options.decoder_stamp = &bundle_.stamp(DECODER_FILE);
    return std::make_unique<LoadedDecoder>(std::make_unique<NativeModel>(directory, options, devices_), options,
                                           identity);
}

std::unique_ptr<VisionEncoder> Model::open_vision() const {
    VisionOptions options;
    options.files = VisionFiles::of_bundle(bundle_.directory());
    for (size_t i = 0; i < VISION_COMPONENTS; ++i) {
        const std::string file = std::string("vision/") + COMPONENTS[i] + ".safetensors";
        if (bundle_.has(file))
            options.files.stamps[i] = bundle_.stamp(file);
    }
    options.threads = decoder_->model().describe().threads;
    options.pool = decoder_->model().threads();
    options.isa = given_.isa;
    options.backend = given_.vision_backend;
    options.keep = given_.keep_vision != 0;
    options.cache_bytes = request(ConversationOptions::read(nullptr)).vision_cache_bytes();
    options.trim = [this] {
        decoder_->model().trim();
        return_free_memory();
    };
    return std::make_unique<VisionEncoder>(std::move(options));
}

// The decoder's own header says what the manifest says, by which pictures and prompts are made.
void Model::check_sizes() const {
    const Json config = bundle_.manifest().architecture().at("decoder");
    const v2e_decoder_description found = decoder_->model().describe();
    const std::array<std::pair<const char *, uint32_t>, 7> sizes = {{{"hidden_size", found.hidden_size},
                                                                     {"intermediate_size", found.intermediate_size},
                                                                     {"num_hidden_layers", found.layers},
                                                                     {"num_attention_heads", found.heads},
                                                                     {"num_key_value_heads", found.kv_heads},
                                                                     {"vocab_size", found.vocabulary_size},
                                                                     {"max_position_embeddings", found.max_context}}};
    for (const auto &[name, stored] : sizes)
        if (const uint32_t expected = small_size(config, name); stored != expected)
            fail(V2E_ERROR_BUNDLE, "%s has %s %u, but the manifest says %u; export the bundle again.",
                 bundle_.path(DECODER_FILE).c_str(), name, static_cast<unsigned>(stored),
                 static_cast<unsigned>(expected));
}

v2e_model_description Model::describe() const {
    const v2e_decoder_description decoder = decoder_->model().describe();
    v2e_model_description about{};
    about.max_context = decoder.max_context;
    about.vocabulary_size = decoder.vocabulary_size;
    about.hidden_size = decoder.hidden_size;
    about.layers = decoder.layers;
    about.has_eagle = pictures_.has_eagle;
    about.threads = decoder.threads;
    about.isa = decoder.isa;
    about.device = decoder.device;
    about.gpu_layers = decoder.gpu_layers;
    about.keep_vision = vision_->keeps();
    about.weight_bytes = decoder.weight_bytes;
    about.mapped_bytes = decoder.mapped_bytes;
    about.gpu_bytes = decoder.gpu_bytes;
    about.vision_cache_bytes = vision_->cache().budget_bytes();
    about.prefix_cache_bytes = decoder_->prefixes().budget_bytes();
    about.vision_cache_used = vision_->cache().used_bytes();
    about.prefix_cache_used = decoder_->prefixes().kept_bytes();
    std::copy(std::begin(decoder.device_name), std::end(decoder.device_name), about.device_name);
    std::copy(std::begin(decoder.device_reason), std::end(decoder.device_reason), about.device_reason);
    const std::string &identity = decoder_->identity();
    std::copy_n(identity.data(), std::min(identity.size(), sizeof about.identity - 1), about.identity);
    return about;
}

void Model::trim() const {
    decoder_->model().trim();
    return_free_memory();
}

PlanRequest Model::request(const ConversationOptions &options) const {
    const std::lock_guard<std::mutex> lock(lock_);
    return {bundle_.directory(), given_, options, pictures_, process_bytes_, true};
}

SessionPlan Model::fit(ConversationOptions &options) const {
    const PlanRequest wanted = request(options);
    if (wanted.model.memory == 0)
        return {};
    const MemoryChoice choice = choose_for(wanted, {ANY_PICTURE}, false, wanted.model.memory, devices_);
    v2e_model_options model = wanted.model;
    apply_choice(choice.options, model, options);
    shrink(choice.options);
    std::string given_up = choice.options.changes;
    for (size_t end = given_up.find('\n'); end != std::string::npos; end = given_up.find('\n', end))
        given_up.replace(end, 1, ", ");
    return {choice.plan.peak_bytes, given_up};
}

void Model::shrink(const v2e_memory_choice &choice) const {
    const std::lock_guard<std::mutex> lock(lock_);
    ConversationOptions none;
    apply_choice(choice, given_, none);
    if (choice.keep_vision == 0)
        vision_->set_keep(false);
    if (choice.vision_cache_bytes < vision_->cache().budget_bytes())
        vision_->cache().resize(choice.vision_cache_bytes);
    if (choice.prefix_cache_bytes < decoder_->prefixes().budget_bytes())
        decoder_->prefixes().resize(choice.prefix_cache_bytes);
}

void Model::check_memory(const ConversationOptions &options, const std::vector<VisionPicture> &pictures,
                         bool video) const {
    const PlanRequest wanted = request(options);
    if (wanted.model.memory == 0)
        return;
    std::vector<Size> sizes;
    for (const VisionPicture &picture : pictures)
        sizes.push_back({picture.geometry.width, picture.geometry.height});
    check_limit(wanted, sizes, video, wanted.model.memory, devices_);
}

} // namespace v2e
