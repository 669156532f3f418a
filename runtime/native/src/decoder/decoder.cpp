#include "decoder/decoder.hpp"

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/platform.hpp"
#include "base/utf8.hpp"
#include "cpu/isa.hpp"
#include "decoder/file_format.hpp"

#include <cmath>
#include <cstdio>
#include <set>

namespace v2e {
namespace {

constexpr double MOST_THETA = 1e12;

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

Decoder::Decoder(const std::string &directory, const v2e_decoder_options &options, const DeviceKind &devices)
    : weights_(directory + "/decoder.safetensors", options.decoder_stamp) {
    const unsigned threads = chosen_threads(options.threads);
    if (options.activations > V2E_ACTIVATIONS_INT16)
        fail(V2E_ERROR_INPUT, "activations is %u, which is no v2e_activations.",
             static_cast<unsigned>(options.activations));
    const v2e_isa isa = chosen_isa(options.isa);
    load_config();
    load_weights();
    inverse_frequencies_ = make_inverse_frequencies(config_.rope_theta, config_.head_size);
    elementwise_ = &elementwise_kernels(isa);
    attention_ = &attention_kernels(isa);
    pool_ = std::make_shared<ThreadPool>(threads);
    linear_ = std::make_unique<Linear>(isa, static_cast<v2e_activations>(options.activations), *pool_);
    open_device(options, devices);
}

void Decoder::open_device(const v2e_decoder_options &options, const DeviceKind &devices) {
    if (options.device > V2E_DEVICE_CUDA)
        fail(V2E_ERROR_INPUT, "device is %u, which is no v2e_device.", static_cast<unsigned>(options.device));
    if (options.device == V2E_DEVICE_CPU)
        return;
    try {
        device_ = devices.open(*this, options, device_reason_);
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
    config.at("head_size");
    static_cast<DecoderSizes &>(config_) = read_decoder_sizes(config, path + ": config");
    config_.rms_norm_eps = config.at("rms_norm_eps").number();
    config_.rope_theta = config.at("rope_theta").number();
    if (config_.hidden_size % 16 != 0 || config_.intermediate_size % 16 != 0 || config_.head_size % 16 != 0)
        fail(V2E_ERROR_BUNDLE, "%s: hidden_size, intermediate_size and head_size must be multiples of 16.",
             path.c_str());
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

v2e_decoder_description Decoder::describe() const {
    v2e_decoder_description description = describe_sizes(config_);
    description.threads = pool_->threads();
    description.isa = static_cast<uint32_t>(linear_->isa());
    description.weight_bytes = head_.weight_bytes + (2 * config_.layers + 1) * config_.hidden_size * sizeof(float);
    for (const DecoderLayer &layer : layers_)
        description.weight_bytes +=
            layer.qkv.weight_bytes + layer.output.weight_bytes + layer.gate_up.weight_bytes + layer.down.weight_bytes;
    description.mapped_bytes = weights_.mapped_bytes();
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

} // namespace v2e
