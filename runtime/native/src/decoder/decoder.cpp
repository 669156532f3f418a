#include "decoder/decoder.hpp"

#include "base/error.hpp"
#include "base/half.hpp"
#include "base/json.hpp"
#include "base/platform.hpp"
#include "base/utf8.hpp"
#include "cpu/isa.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>

namespace v2e {
namespace {

// Far beyond what any decoder has, and small enough for every product of sizes to stay within 64 bits.
constexpr uint64_t MOST_WIDTH = 1 << 17, MOST_MIDDLE = 1 << 20, MOST_LAYERS = 1 << 10, MOST_HEADS = 1 << 12,
                   MOST_VOCABULARY = 1 << 22;
constexpr uint64_t MOST_CONTEXT = 1 << 24; // as far as a float counts
constexpr double MOST_THETA = 1e12;

const std::string &metadata_of(const SafetensorsFile &file, const char *key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
        fail(V2E_ERROR_BUNDLE, "%s has no metadata \"%s\"; export the bundle again.", file.path().c_str(), key);
    return found->second;
}

void check_format(const SafetensorsFile &file, const char *format) {
    if (metadata_of(file, "format") != format)
        fail(V2E_ERROR_BUNDLE, "%s is not of the format %s.", file.path().c_str(), format);
    const std::string &version = metadata_of(file, "format_version");
    if (version != "1")
        fail(V2E_ERROR_BUNDLE, "%s has format version %s, but this release reads version 1; upgrade valley2-edge.",
             file.path().c_str(), shown(version).c_str());
}

size_t read_size(const Json &config, const char *key, uint64_t most, const std::string &path) {
    const uint64_t value = config.at(key).unsigned_integer();
    if (value == 0 || value > most)
        fail(V2E_ERROR_BUNDLE, "%s: config.%s is %llu, which no decoder has.", path.c_str(), key,
             static_cast<unsigned long long>(value));
    return static_cast<size_t>(value);
}

// The same as transformers computes, in float32: 1 / theta^(2k / head_size).
std::vector<float> make_inverse_frequencies(double theta, size_t head_size) {
    std::vector<float> frequencies(head_size / 2);
    for (size_t k = 0; k < frequencies.size(); ++k) {
        const float exponent = static_cast<float>(2 * k) / static_cast<float>(head_size);
        const auto power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
        frequencies[k] = 1.0f / power;
    }
    return frequencies;
}

bool is_padding(const std::string &tensor) {
    return tensor.rfind("_pad.", 0) == 0;
}

} // namespace

Decoder::Decoder(const std::string &directory, const v2e_model_options &options, const Backend &backend)
    : weights_(directory + "/decoder.safetensors", options.decoder_stamp),
      embedding_file_(directory + "/embeddings.safetensors", options.embeddings_stamp) {
    const unsigned threads = chosen_threads(options.threads);
    if (options.activations > V2E_ACTIVATIONS_INT16)
        fail(V2E_ERROR_INPUT, "activations is %u, which is no v2e_activations.",
             static_cast<unsigned>(options.activations));
    const v2e_isa isa = chosen_isa(options.isa);
    load_config();
    load_weights();
    load_embeddings();
    inverse_frequencies_ = make_inverse_frequencies(config_.rope_theta, config_.head_size);
    elementwise_ = &elementwise_kernels(isa);
    attention_ = &attention_kernels(isa);
    pool_ = std::make_shared<ThreadPool>(threads);
    linear_ = std::make_unique<Linear>(isa, static_cast<v2e_activations>(options.activations), *pool_);
    open_device(options, backend);
}

void Decoder::open_device(const v2e_model_options &options, const Backend &backend) {
    if (options.device > V2E_DEVICE_CUDA)
        fail(V2E_ERROR_INPUT, "device is %u, which is no v2e_device.", static_cast<unsigned>(options.device));
    if (options.device == V2E_DEVICE_CPU)
        return;
    try {
        device_ = backend.open(*this, options, device_reason_);
    } catch (const Failure &failure) {
        if (options.device == V2E_DEVICE_CUDA)
            throw;
        device_reason_ = failure.message;
    }
    if (device_ == nullptr && options.device == V2E_DEVICE_CUDA)
        fail(V2E_ERROR_INPUT, "The decoder cannot run on a GPU here: %s; leave the device to auto, or choose cpu.",
             device_reason_.c_str());
}

void Decoder::load_config() {
    check_format(weights_, "valley2-decoder");
    const std::string &path = weights_.path();
    const Json config = Json::parse(metadata_of(weights_, "config"), path + ": config");
    static const std::set<std::string> known = {
        "hidden_size",         "intermediate_size",   "num_hidden_layers",      "num_attention_heads",
        "num_key_value_heads", "vocab_size",          "rms_norm_eps",           "rope_theta",
        "head_size",           "tie_word_embeddings", "max_position_embeddings"};
    for (const std::string &key : config.keys())
        if (known.count(key) == 0)
            fail(V2E_ERROR_BUNDLE, "%s: config.%s is unknown to this release.", path.c_str(), shown(key).c_str());
    config_.hidden_size = read_size(config, "hidden_size", MOST_WIDTH, path);
    config_.intermediate_size = read_size(config, "intermediate_size", MOST_MIDDLE, path);
    config_.layers = read_size(config, "num_hidden_layers", MOST_LAYERS, path);
    config_.heads = read_size(config, "num_attention_heads", MOST_HEADS, path);
    config_.kv_heads = read_size(config, "num_key_value_heads", MOST_HEADS, path);
    config_.head_size = read_size(config, "head_size", MAX_HEAD_SIZE, path);
    config_.vocabulary_size = read_size(config, "vocab_size", MOST_VOCABULARY, path);
    config_.max_context = read_size(config, "max_position_embeddings", MOST_CONTEXT, path);
    config_.rms_norm_eps = config.at("rms_norm_eps").number();
    config_.rope_theta = config.at("rope_theta").number();
    if (config_.hidden_size % 16 != 0 || config_.intermediate_size % 16 != 0 || config_.head_size % 16 != 0)
        fail(V2E_ERROR_BUNDLE, "%s: hidden_size, intermediate_size and head_size must be multiples of 16.",
             path.c_str());
    if (config_.heads % config_.kv_heads != 0)
        fail(V2E_ERROR_BUNDLE, "%s: %zu attention heads cannot share %zu kv heads evenly.", path.c_str(), config_.heads,
             config_.kv_heads);
    if (!(config_.rope_theta >= 1.0 && config_.rope_theta <= MOST_THETA) ||
        !(config_.rms_norm_eps >= 0.0 && config_.rms_norm_eps <= 1.0))
        fail(V2E_ERROR_BUNDLE, "%s: config.rope_theta or config.rms_norm_eps is out of range.", path.c_str());
}

void Decoder::check_matrix(const Matrix &matrix, const std::string &name, size_t rows, size_t columns) const {
    if (matrix.rows != rows || matrix.columns != columns)
        fail(V2E_ERROR_BUNDLE, "%s: %s is (%zu, %zu), but the config asks for (%zu, %zu).", weights_.path().c_str(),
             name.c_str(), matrix.rows, matrix.columns, rows, columns);
}

const float *Decoder::load_norm(const std::string &name) const {
    const TensorView &tensor = weights_.tensor(name);
    if (tensor.dtype != "F32" || tensor.shape != std::vector<uint64_t>{config_.hidden_size})
        fail(V2E_ERROR_BUNDLE, "%s: %s is not F32 of the shape (%zu,).", weights_.path().c_str(), name.c_str(),
             config_.hidden_size);
    const auto *values = reinterpret_cast<const float *>(tensor.data);
    if (!is_aligned(values))
        fail(V2E_ERROR_BUNDLE, "%s: tensor '%s' is not aligned to %zu bytes.", weights_.path().c_str(), name.c_str(),
             alignof(float));
    return values;
}

void Decoder::load_weights() {
    const Json matrices = Json::parse(metadata_of(weights_, "matrices"), weights_.path() + ": matrices");
    const auto load = [&](const std::string &name, size_t rows, size_t columns) {
        Matrix matrix = load_matrix(weights_, name, matrices);
        check_matrix(matrix, name, rows, columns);
        return matrix;
    };
    const size_t hidden = config_.hidden_size, middle = config_.intermediate_size;
    for (size_t i = 0; i < config_.layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        DecoderLayer layer;
        layer.input_norm = load_norm(prefix + "input_norm");
        layer.qkv = load(prefix + "attention.qkv", config_.qkv_size(), hidden);
        layer.output = load(prefix + "attention.output", hidden, config_.query_size());
        layer.post_attention_norm = load_norm(prefix + "post_attention_norm");
        layer.gate_up = load(prefix + "mlp.gate_up", 2 * middle, hidden);
        layer.down = load(prefix + "mlp.down", hidden, middle);
        if (layer.qkv.bias == nullptr)
            fail(V2E_ERROR_BUNDLE, "%s: %sattention.qkv.bias is missing.", weights_.path().c_str(), prefix.c_str());
        layers_.push_back(layer);
    }
    norm_ = load_norm("norm");
    head_ = load("lm_head", config_.vocabulary_size, hidden);
    if (matrices.keys().size() != 4 * config_.layers + 1)
        fail(V2E_ERROR_BUNDLE, "%s: its metadata names %zu matrices, but a decoder of %zu layers has %zu.",
             weights_.path().c_str(), matrices.keys().size(), config_.layers, 4 * config_.layers + 1);
    check_no_other_tensors();
}

void Decoder::check_no_other_tensors() const {
    std::set<std::string> known = {"norm"};
    const auto add_matrix = [&](const std::string &name) {
        for (const char *part : {".weight", ".scales", ".zeros", ".bias"})
            known.insert(name + part);
    };
    for (size_t i = 0; i < config_.layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        known.insert(prefix + "input_norm");
        known.insert(prefix + "post_attention_norm");
        for (const char *name : {"attention.qkv", "attention.output", "mlp.gate_up", "mlp.down"})
            add_matrix(prefix + name);
    }
    add_matrix("lm_head");
    for (const auto &[name, tensor] : weights_.tensors())
        if (known.count(name) == 0 && !is_padding(name))
            fail(V2E_ERROR_BUNDLE, "%s has a tensor %s that a decoder of %zu layers does not have.",
                 weights_.path().c_str(), shown(name).c_str(), config_.layers);
}

void Decoder::load_embeddings() {
    check_format(embedding_file_, "valley2-embeddings");
    embeddings_ = embedding_file_.tensor("embeddings.weight");
    const bool typed = embeddings_.dtype == "BF16" || embeddings_.dtype == "F16" || embeddings_.dtype == "F32";
    if (!typed || embeddings_.shape != std::vector<uint64_t>{config_.vocabulary_size, config_.hidden_size})
        fail(V2E_ERROR_BUNDLE, "%s: embeddings.weight is not BF16, F16 or F32 of the shape (%zu, %zu).",
             embedding_file_.path().c_str(), config_.vocabulary_size, config_.hidden_size);
    if (!is_aligned(reinterpret_cast<const float *>(embeddings_.data)))
        fail(V2E_ERROR_BUNDLE, "%s: tensor 'embeddings.weight' is not aligned to %zu bytes.",
             embedding_file_.path().c_str(), alignof(float));
}

v2e_model_description Decoder::describe() const {
    v2e_model_description description{};
    description.struct_size = sizeof description;
    description.hidden_size = static_cast<uint32_t>(config_.hidden_size);
    description.intermediate_size = static_cast<uint32_t>(config_.intermediate_size);
    description.layers = static_cast<uint32_t>(config_.layers);
    description.heads = static_cast<uint32_t>(config_.heads);
    description.kv_heads = static_cast<uint32_t>(config_.kv_heads);
    description.head_size = static_cast<uint32_t>(config_.head_size);
    description.vocabulary_size = static_cast<uint32_t>(config_.vocabulary_size);
    description.max_context = static_cast<uint32_t>(config_.max_context);
    description.threads = pool_->threads();
    description.isa = static_cast<uint32_t>(linear_->isa());
    description.weight_bytes = head_.weight_bytes + (2 * config_.layers + 1) * config_.hidden_size * sizeof(float);
    for (const DecoderLayer &layer : layers_)
        description.weight_bytes +=
            layer.qkv.weight_bytes + layer.output.weight_bytes + layer.gate_up.weight_bytes + layer.down.weight_bytes;
    description.mapped_bytes = weights_.mapped_bytes() + embedding_file_.mapped_bytes();
    description.device = device_ == nullptr ? V2E_DEVICE_CPU : V2E_DEVICE_CUDA;
    if (device_ != nullptr) {
        description.gpu_layers = static_cast<uint32_t>(device_->layer_count());
        description.gpu_bytes = device_->bytes();
        std::snprintf(description.device_name, sizeof description.device_name, "%s", device_->device_name().c_str());
    }
    std::snprintf(description.device_reason, sizeof description.device_reason, "%s", device_reason_.c_str());
    return description;
}

void Decoder::trim() const {
    drop_pages();
    if (device_ != nullptr)
        device_->offload_weights();
}

void Decoder::drop_pages() const noexcept {
    weights_.drop_pages();
    embedding_file_.drop_pages();
}

void Decoder::check_tokens(const int32_t *tokens, size_t count) const {
    for (size_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= config_.vocabulary_size)
            fail(V2E_ERROR_INPUT, "The token id %d is outside the vocabulary of %zu.", static_cast<int>(tokens[i]),
                 config_.vocabulary_size);
}

void Decoder::embed(const int32_t *tokens, size_t count, float *embeddings) const {
    const size_t hidden = config_.hidden_size;
    for (size_t i = 0; i < count; ++i, embeddings += hidden) {
        const size_t first = static_cast<size_t>(tokens[i]) * hidden;
        if (embeddings_.dtype == "F32") {
            std::memcpy(embeddings, embeddings_.data + first * sizeof(float), hidden * sizeof(float));
            continue;
        }
        const auto *row = reinterpret_cast<const uint16_t *>(embeddings_.data) + first;
        const bool bf16 = embeddings_.dtype == "BF16";
        for (size_t channel = 0; channel < hidden; ++channel)
            embeddings[channel] = bf16 ? float_from_bf16(row[channel]) : float_from_half(row[channel]);
    }
}

} // namespace v2e
