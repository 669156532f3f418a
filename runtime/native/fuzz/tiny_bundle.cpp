#include "fuzz/tiny_bundle.hpp"

#include "base/json.hpp"
#include "fuzz/fuzz.hpp"

#include <initializer_list>
#include <vector>

namespace fuzz {
namespace {

using Shape = std::vector<size_t>;

constexpr size_t ALIGNMENT = 64;
constexpr uint64_t MOST_DATA = 256 << 10;
constexpr size_t VISION_PANEL = 32, DECODER_PANEL = 64;

std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (const char letter : text) {
        if (letter == '"' || letter == '\\')
            result += '\\';
        result += letter;
    }
    return result + "\"";
}

std::string number(size_t value) {
    return std::to_string(value);
}

// The text of a header; data offsets follow from the order of the tensors.
class Header {
  public:
    Header(std::initializer_list<std::pair<const char *, std::string>> metadata) {
        for (const auto &[key, value] : metadata)
            metadata_ += (metadata_.empty() ? "" : ",") + quoted(key) + ":" + quoted(value);
    }

    void tensor(const std::string &name, const char *dtype, size_t element_bytes, const Shape &shape) {
        std::string sizes;
        size_t bytes = element_bytes;
        for (const size_t size : shape) {
            sizes += (sizes.empty() ? "" : ",") + number(size);
            bytes *= size;
        }
        add(name, dtype, sizes, bytes);
        if (const size_t rest = bytes % ALIGNMENT; rest != 0)
            add("_pad." + number(paddings_++), "U8", number(ALIGNMENT - rest), ALIGNMENT - rest);
    }

    std::string text() const { return "{\"__metadata__\":{" + metadata_ + "}" + tensors_ + "}"; }

  private:
    void add(const std::string &name, const char *dtype, const std::string &sizes, size_t bytes) {
        tensors_ += "," + quoted(name) + ":{\"dtype\":\"" + dtype + "\",\"shape\":[" + sizes + "],\"data_offsets\":[" +
                    number(end_) + "," + number(end_ + bytes) + "]}";
        end_ += bytes;
    }

    std::string metadata_, tensors_;
    size_t end_ = 0, paddings_ = 0;
};

struct NamedMatrix {
    std::string name;
    size_t rows, columns;
    bool bias;
    bool floats = false; // bf16 where the others are int8
};

// entry(matrix): what the entry of a matrix says beside its sizes.
template <class Entry>
std::string matrices_json(const std::vector<NamedMatrix> &matrices, Entry &&entry) {
    std::string text = "{";
    for (const NamedMatrix &matrix : matrices)
        text += (text.size() > 1 ? "," : "") + quoted(matrix.name) + ":{" + entry(matrix) +
                ",\"rows\":" + number(matrix.rows) + ",\"columns\":" + number(matrix.columns) + "}";
    return text + "}";
}

const std::vector<NamedMatrix> DECODER_MATRICES = {{"layers.0.attention.qkv", 64, HIDDEN, true},
                                                   {"layers.0.attention.output", HIDDEN, HIDDEN, false},
                                                   {"layers.0.mlp.gate_up", 64, HIDDEN, false},
                                                   {"layers.0.mlp.down", HIDDEN, 32, false},
                                                   {"lm_head", VOCABULARY, HIDDEN, false}};

std::string decoder_entry(const std::string &precision) {
    if (precision == "fp32" || precision == "fp16")
        return "\"precision\":" + quoted(precision);
    const std::string groups =
        ",\"group_size\":32,\"symmetric\":" + std::string(precision == "int4-zeros" ? "false" : "true");
    if (precision == "nf4")
        return "\"precision\":\"int4\",\"code\":\"nf4\"" + groups;
    return "\"precision\":" + quoted(precision.substr(0, 4)) + groups;
}

void add_decoder_matrix(Header &header, const NamedMatrix &matrix, const std::string &precision) {
    const size_t panels = (matrix.rows + DECODER_PANEL - 1) / DECODER_PANEL, groups = matrix.columns / 32;
    if (precision == "fp32" || precision == "fp16") {
        const bool wide = precision == "fp32";
        header.tensor(matrix.name + ".weight", wide ? "F32" : "F16", wide ? 4 : 2,
                      {panels, matrix.columns, DECODER_PANEL});
    } else {
        header.tensor(matrix.name + ".weight", "U8", 1,
                      {panels, matrix.columns / (precision == "int8" ? 4 : 8), DECODER_PANEL, 4});
        header.tensor(matrix.name + ".scales", "F16", 2, {panels, groups, DECODER_PANEL});
        if (precision == "int4-zeros")
            header.tensor(matrix.name + ".zeros", "U8", 1, {panels, groups, DECODER_PANEL});
    }
    if (matrix.bias)
        header.tensor(matrix.name + ".bias", "F32", 4, {matrix.rows});
}

void add_tower_matrix(Header &header, const NamedMatrix &matrix, const std::string &precision) {
    const size_t panels = (matrix.rows + VISION_PANEL - 1) / VISION_PANEL, padded = panels * VISION_PANEL;
    if (precision == "int8") {
        header.tensor(matrix.name + ".weight", "U8", 1, {panels, (matrix.columns + 3) / 4, VISION_PANEL, 4});
        header.tensor(matrix.name + ".scales", "F32", 4, {padded});
        header.tensor(matrix.name + ".sums", "I32", 4, {padded});
    } else if (precision == "bf16") {
        header.tensor(matrix.name + ".weight", "BF16", 2, {panels, (matrix.columns + 1) / 2, VISION_PANEL, 2});
    } else {
        header.tensor(matrix.name + ".weight", "F32", 4, {panels, matrix.columns, VISION_PANEL, 1});
    }
    if (matrix.bias)
        header.tensor(matrix.name + ".bias", "F32", 4, {padded});
}

// Vision towers: matrices in panels of 32, vectors padded to 32.
std::string tower_header(const char *tower, const std::string &config, const std::vector<NamedMatrix> &matrices,
                         const std::vector<std::pair<std::string, Shape>> &vectors, const std::string &precision) {
    const auto own_precision = [&](const NamedMatrix &matrix) {
        return matrix.floats && precision == "int8" ? "bf16" : precision;
    };
    const auto entry = [&](const NamedMatrix &matrix) { return "\"precision\":" + quoted(own_precision(matrix)); };
    Header header({{"format", "valley2-tower"},
                   {"format_version", "1"},
                   {"tower", tower},
                   {"config", config},
                   {"matrices", matrices_json(matrices, entry)}});
    for (const NamedMatrix &matrix : matrices)
        add_tower_matrix(header, matrix, own_precision(matrix));
    for (const auto &[name, shape] : vectors)
        header.tensor(name, "F32", 4, shape);
    return header.text();
}

std::vector<NamedMatrix> layer_matrices(size_t width, size_t middle) {
    return {{"layers.0.qkv", 3 * width, width, true},
            {"layers.0.output", width, width, true},
            {"layers.0.up", middle, width, true},
            {"layers.0.down", width, middle, true}};
}

std::vector<std::pair<std::string, Shape>> norms(std::initializer_list<const char *> names, size_t size) {
    std::vector<std::pair<std::string, Shape>> vectors;
    for (const char *name : names)
        for (const char *part : {".weight", ".bias"})
            vectors.push_back({std::string(name) + part, {size}});
    return vectors;
}

// Where the data of the header's tensors ends; the size of `data` when the header is not to be understood.
size_t data_bytes(std::string_view header, std::string_view data) {
    uint64_t end = 0;
    try {
        const v2e::Json parsed = v2e::Json::parse(header, "header");
        for (const std::string &name : parsed.keys())
            if (name != "__metadata__")
                end = std::max(end, parsed.at(name).at("data_offsets").items().at(1).unsigned_integer());
    } catch (const v2e::Failure &) {
        return data.size();
    } catch (const std::out_of_range &) {
        return data.size();
    }
    return static_cast<size_t>(std::min(end, MOST_DATA));
}

} // namespace

std::string safetensors(std::string_view header, std::string_view data) {
    const size_t padded = (8 + header.size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t bytes = data_bytes(header, data);
    std::string file(padded + bytes, ' ');
    const uint64_t length = padded - 8;
    std::memcpy(file.data(), &length, sizeof length);
    header.copy(file.data() + 8, header.size());
    // 0.03 to 0.06 as F32 and as BF16's upper half, about 0.1 and 1.3 as F16; both signs.
    uint32_t state = 1;
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        state = state * 1664525 + 1013904223;
        const uint32_t word = 0x3d002c00u | (state >> 8 & 0x007f03ffu) | (state & 0x80000000u);
        std::memcpy(file.data() + padded + i, &word, sizeof word);
    }
    data.copy(file.data() + padded, bytes);
    return file;
}

std::string decoder_header(const std::string &precision) {
    const std::string config = "{\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,"
                               "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":" +
                               number(VOCABULARY) +
                               ",\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,\"head_size\":16,"
                               "\"tie_word_embeddings\":false,\"max_position_embeddings\":" +
                               number(CONTEXT) + "}";
    Header header(
        {{"format", "valley2-decoder"},
         {"format_version", "1"},
         {"config", config},
         {"matrices", matrices_json(DECODER_MATRICES, [&](const NamedMatrix &) { return decoder_entry(precision); })}});
    for (const char *norm : {"layers.0.input_norm", "layers.0.post_attention_norm", "norm"})
        header.tensor(norm, "F32", 4, {HIDDEN});
    for (const NamedMatrix &matrix : DECODER_MATRICES)
        add_decoder_matrix(header, matrix, precision);
    return header.text();
}

std::string embeddings_header() {
    Header header({{"format", "valley2-embeddings"}, {"format_version", "1"}});
    header.tensor("embeddings.weight", "BF16", 2, {VOCABULARY, HIDDEN});
    return header.text();
}

std::string siglip_header(const std::string &precision) {
    std::vector<NamedMatrix> matrices = layer_matrices(32, 32);
    matrices.push_back({"patch_embedding", 32, 12, true});
    auto vectors = norms({"layers.0.norm1", "layers.0.norm2", "post_norm"}, 32);
    vectors.push_back({"position_embedding", {9, 32}});
    return tower_header("siglip",
                        "{\"hidden_size\":32,\"num_attention_heads\":2,\"num_hidden_layers\":1,"
                        "\"intermediate_size\":32,\"image_size\":6,\"patch_size\":2,\"layer_norm_eps\":1e-06}",
                        matrices, vectors, precision);
}

std::string projector_header(const std::string &kind, const std::string &precision) {
    const bool vocabulary = kind == "softmax" || kind == "st_argmax", shuffled = kind == "mlp_pixel_shuffle";
    const std::string config = "{\"type\":" + quoted(vocabulary ? "ovis_conv_adapter" : kind) +
                               ",\"tokenize_function\":" + quoted(vocabulary ? kind : "softmax") +
                               ",\"input_size\":8,\"mlp_hidden_dim\":32,\"output_size\":32,"
                               "\"pixelshuffle_downsample_ratio\":3,\"tokens_per_side\":" +
                               number(shuffled ? 1 : 2) + ",\"patches_per_side\":3}";
    if (vocabulary)
        return tower_header(
            "projector", config,
            {{"convolution", 8, 72, true}, {"vocabulary", 32, 8, false}, {"mixture", 32, 32, false, true}},
            norms({"vocabulary_norm"}, 32), precision);
    std::vector<NamedMatrix> matrices = {{"inner", 32, shuffled ? 72u : 8u, true}, {"outer", 32, 32, true}};
    if (!shuffled)
        matrices.push_back({"convolution", 32, 288, true, true});
    return tower_header("projector", config, matrices, {}, precision);
}

std::string eagle_header(const std::string &precision) {
    std::vector<NamedMatrix> matrices = layer_matrices(16, 32);
    matrices.push_back({"patch_embedding", 16, 24, false});
    matrices.push_back({"merger.inner", 64, 64, true});
    matrices.push_back({"merger.outer", 32, 64, true});
    return tower_header("eagle",
                        "{\"embed_dim\":16,\"num_heads\":2,\"depth\":1,\"mlp_ratio\":2,\"hidden_size\":32,"
                        "\"patch_size\":2,\"spatial_merge_size\":2,\"temporal_patch_size\":2,"
                        "\"layer_norm_eps\":1e-06,\"rope_theta\":10000.0}",
                        matrices, norms({"layers.0.norm1", "layers.0.norm2", "merger.norm"}, 32), precision);
}

std::string manifest(bool native_towers, bool onnx_decoder) {
    std::string files, components;
    for (const char *name : {"siglip", "projector", "eagle"}) {
        const std::string path = std::string("vision/") + name + (native_towers ? ".safetensors" : ".onnx");
        components += std::string(",\"") + name + "\":{\"precision\":\"" + (native_towers ? "int8" : "fp16") +
                      "\",\"files\":[\"" + path + "\"]}";
        files += "\"" + path + "\":{\"size\":65536},";
    }
    return "{\"format\":\"valley2-bundle\",\"format_version\":2,\"architecture\":{"
           "\"siglip\":{\"hidden_size\":32,\"num_attention_heads\":2,\"num_hidden_layers\":1,\"intermediate_size\":32,"
           "\"image_size\":6,\"patch_size\":2},"
           "\"projector\":{\"type\":\"ovis_conv_adapter\",\"mlp_hidden_dim\":32,\"output_size\":32,"
           "\"tokens_per_side\":2},"
           "\"eagle\":{\"embed_dim\":16,\"num_heads\":2,\"depth\":1,\"mlp_ratio\":2,\"spatial_merge_size\":2},"
           "\"decoder\":{\"hidden_size\":32,\"intermediate_size\":32,\"num_attention_heads\":2,"
           "\"num_key_value_heads\":1,\"vocab_size\":40,\"num_hidden_layers\":1,\"max_position_embeddings\":600}}" +
           components + ",\"decoder\":{\"engine\":\"" + (onnx_decoder ? "onnx" : "native") + "\"},\"files\":{" + files +
           "\"decoder/decoder.onnx.data\":{\"size\":4096},\"decoder/embeddings.safetensors\":{\"size\":4096}}}";
}

void write_bundle(const std::string &directory, const std::string &decoder_precision) {
    write_file(directory + "/valley2.json", manifest(true, false));
    write_file(directory + "/decoder/decoder.safetensors", safetensors(decoder_header(decoder_precision), ""));
    write_file(directory + "/decoder/embeddings.safetensors", safetensors(embeddings_header(), ""));
    write_file(directory + "/vision/siglip.safetensors", safetensors(siglip_header("int8"), ""));
    write_file(directory + "/vision/projector.safetensors", safetensors(projector_header("softmax", "int8"), ""));
    write_file(directory + "/vision/eagle.safetensors", safetensors(eagle_header("int8"), ""));
}

} // namespace fuzz
