#include "vision/transformer.hpp"

#include "base/error.hpp"
#include "cpu/elementwise/elementwise.hpp"

#include <algorithm>
#include <cmath>

namespace v2e {
namespace {

constexpr size_t MOST_HEAD_SIZE = 256; // pack_key's buffers
constexpr size_t QUERY_TILES = 8;      // tiles of queries in one task
constexpr size_t PADDING = 2 * VISION_PANEL;

// Stages of a layer, in order.
enum Stage : int { INPUT, QKV, ATTENTION, OUTPUT, MLP, STAGES };

std::string stage_name(int stage) {
    static const char *const NAMES[] = {"input", "query, key and value projection", "attention", "attention's output",
                                        "MLP"};
    const int layer = stage / STAGES;
    return std::string("the ") + NAMES[stage % STAGES] + " of layer " + std::to_string(layer);
}

// Words of one head's keys and values, packed.
struct HeadLayout {
    size_t keys, padded, width; // words of the keys; of a vector over the keys; channels
    size_t values;

    HeadLayout(const VisionArithmetic &arithmetic, size_t tokens, size_t head_size)
        : padded(round_up(tokens, VISION_PANEL)), width(round_up(head_size, VISION_LANES)) {
        keys = padded * row_words(arithmetic, head_size);
        values = padded / arithmetic.per_word * width;
    }
    size_t words() const { return round_up(keys + 2 * padded + values + width, VISION_PANEL); }

    VisionHead cut(uint32_t *memory, size_t count, size_t size) const {
        VisionHead head{};
        head.keys = memory;
        head.values = head.keys + keys;
        head.key_scales = reinterpret_cast<float *>(head.values + values);
        head.key_sums = reinterpret_cast<int32_t *>(head.key_scales + padded);
        head.value_scales = reinterpret_cast<float *>(head.key_sums + padded);
        head.count = count;
        head.size = size;
        return head;
    }
};

} // namespace

// One run through the layers.
class Transformer::Pass {
  public:
    Pass(Transformer &model, TowerEngine &engine, const TransformerInput &input)
        : model_(model), shape_(model.shape_), engine_(engine), input_(input), plan_(input.rows(), engine.threads()),
          check_(model.tower_), elementwise_(elementwise_kernels(engine.isa())),
          layout_(attention(), input.tokens, shape_.head_size()) {
        reserve();
    }

    void run(const std::function<void(size_t)> &step) {
        for (size_t layer = 0; layer < shape_.layers; ++layer) {
            step(layer);
            if (layer == 0)
                run_blocks([&](RowBlock &block, size_t first, size_t count) { project(block, 0, first, count); });
            pack_heads();
            attend(layer);
            run_blocks([&](RowBlock &block, size_t first, size_t count) {
                mix(block, layer, first, count);
                if (layer + 1 < shape_.layers)
                    project(block, layer + 1, first, count);
            });
        }
    }

  private:
    // Attention has the arithmetic of the layers' matrices.
    const VisionArithmetic &attention() const { return engine_.arithmetic(model_.layers_.front().qkv); }
    size_t stride() const { return shape_.stride(); }
    float *hidden(size_t row) const { return input_.hidden + row * stride(); }
    float *qkv(size_t row) const { return model_.qkv_.data() + row * shape_.qkv_stride(); }
    float *attended(size_t row) const { return model_.attended_.data() + row * stride(); }
    void note(bool finite, size_t layer, Stage stage) { check_.note(finite, static_cast<int>(layer) * STAGES + stage); }

    void reserve() {
        const size_t rows = input_.rows(), threads = engine_.threads();
        model_.qkv_.reserve(rows * shape_.qkv_stride() + PADDING);
        model_.attended_.reserve(rows * stride() + PADDING);
        model_.heads_.reserve(input_.pictures * shape_.heads * layout_.words());
        model_.blocks_.resize(threads);
        model_.attenders_.resize(threads);
        for (RowBlock &block : model_.blocks_)
            block.reserve(std::max(shape_.width, shape_.middle), shape_.middle);
        for (Attender &attender : model_.attenders_) {
            attender.words.reserve(VISION_MOST_ROWS * round_up(shape_.head_size(), PADDING));
            attender.scales.reserve(VISION_MOST_ROWS);
            attender.zeros.reserve(VISION_MOST_ROWS);
            attender.scratch.reserve(vision_attention_floats(shape_.head_size()));
        }
    }

    template <class Body>
    void run_blocks(Body &&body) {
        engine_.run(plan_.blocks, [&](size_t worker, size_t index) {
            body(model_.blocks_[worker], plan_.first(index), plan_.count(index));
        });
        check_.require(stage_name);
    }

    // Queries, keys and values of a layer's input.
    void project(RowBlock &block, size_t layer, size_t first, size_t count) {
        const Layer &weights = model_.layers_[layer];
        note(block.pack_normed(engine_, weights.qkv, weights.norm1, shape_.epsilon, hidden(first), stride(), count),
             layer, INPUT);
        block.multiply(engine_, weights.qkv, qkv(first), shape_.qkv_stride(), Finish::store);
        if (input_.cosine == nullptr)
            return;
        const size_t half = shape_.head_size() / 2;
        for (size_t row = first; row < first + count; ++row) {
            const size_t angles = row % input_.tokens * half;
            elementwise_.rotate(qkv(row), 2 * shape_.heads, shape_.head_size(), input_.cosine + angles,
                                input_.sine + angles);
        }
    }

    VisionHead head_of(size_t index) const {
        return layout_.cut(model_.heads_.data() + index * layout_.words(), input_.tokens, shape_.head_size());
    }

    void pack_heads() {
        engine_.run(input_.pictures * shape_.heads, [&](size_t, size_t index) {
            const float *queries =
                qkv(index / shape_.heads * input_.tokens) + index % shape_.heads * shape_.head_size();
            attention().pack_head(queries + shape_.width, queries + 2 * shape_.width, shape_.qkv_stride(),
                                  head_of(index));
        });
    }

    void attend(size_t layer) {
        const size_t rows = QUERY_TILES * attention().tile_rows;
        const size_t parts = (input_.tokens + rows - 1) / rows;
        engine_.run(input_.pictures * shape_.heads * parts, [&](size_t worker, size_t task) {
            const size_t begin = task % parts * rows, end = std::min(input_.tokens, begin + rows);
            for (size_t token = begin; token < end; token += attention().tile_rows)
                attend_tile(model_.attenders_[worker], layer, task / parts, token,
                            std::min(attention().tile_rows, end - token));
        });
        check_.require(stage_name);
    }

    // `count` queries of one head, index (pictures, heads).
    void attend_tile(Attender &attender, size_t layer, size_t index, size_t token, size_t count) {
        const size_t row = index / shape_.heads * input_.tokens + token;
        const size_t channel = index % shape_.heads * shape_.head_size();
        const VisionRows queries{attender.words.data(),
                                 row_words(attention(), shape_.head_size()),
                                 attender.scales.data(),
                                 attender.zeros.data(),
                                 count,
                                 &engine_.stop()};
        std::fill_n(queries.words, attention().tile_rows * queries.stride, 0u);
        bool finite = true;
        for (size_t i = 0; i < count; ++i)
            finite &= attention().pack_row(qkv(row + i) + channel, shape_.head_size(),
                                           queries.words + i * queries.stride, queries.scales + i, queries.zeros + i);
        note(finite, layer, QKV);
        const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_size()));
        note(attention().attend(queries, head_of(index), scale, attended(row) + channel, stride(),
                                attender.scratch.data()),
             layer, ATTENTION);
    }

    // Computes the rest of a layer from the attended values and adds it to the residual stream.
    void mix(RowBlock &block, size_t layer, size_t first, size_t count) {
        const Layer &weights = model_.layers_[layer];
        note(block.pack(engine_, weights.output, attended(first), stride(), count), layer, ATTENTION);
        block.multiply(engine_, weights.output, hidden(first), stride(), Finish::add);
        note(block.pack_normed(engine_, weights.up, weights.norm2, shape_.epsilon, hidden(first), stride(), count),
             layer, OUTPUT);
        const size_t wide = weights.up.padded_outputs();
        block.multiply(engine_, weights.up, block.wide(), wide, shape_.activation);
        note(block.pack(engine_, weights.down, block.wide(), wide, count), layer, MLP);
        block.multiply(engine_, weights.down, hidden(first), stride(), Finish::add);
    }

    Transformer &model_;
    const TransformerShape &shape_;
    TowerEngine &engine_;
    const TransformerInput &input_;
    BlockPlan plan_;
    StageCheck check_;
    const ElementwiseKernels &elementwise_;
    HeadLayout layout_;
};

Transformer::Transformer(const TowerFile &file, const TransformerShape &shape) : shape_(shape), tower_(file.tower()) {
    if (shape.width % shape.heads != 0 || shape.head_size() % 2 != 0 || shape.head_size() > MOST_HEAD_SIZE)
        file.refuse("its heads have a size that this release cannot compute");
    layers_.reserve(shape.layers);
    for (size_t index = 0; index < shape.layers; ++index) {
        const std::string prefix = "layers." + std::to_string(index) + ".";
        layers_.push_back(
            {file.norm(prefix + "norm1", shape.width), file.matrix(prefix + "qkv", 3 * shape.width, shape.width),
             file.matrix(prefix + "output", shape.width, shape.width), file.norm(prefix + "norm2", shape.width),
             file.matrix(prefix + "up", shape.middle, shape.width),
             file.matrix(prefix + "down", shape.width, shape.middle)});
    }
}

void Transformer::run(TowerEngine &engine, const TransformerInput &input, const std::function<void(size_t)> &step) {
    Pass(*this, engine, input).run(step);
}

double Transformer::operations(size_t pictures, size_t tokens) const {
    const auto rows = static_cast<double>(pictures * tokens), width = static_cast<double>(shape_.width);
    const double matrices = 4 * width * width + 2 * width * static_cast<double>(shape_.middle);
    return 2 * rows * static_cast<double>(shape_.layers) * (matrices + 2 * static_cast<double>(tokens) * width);
}

Saturating Transformer::scratch_bytes(const TowerEngine &engine, Saturating pictures, Saturating tokens) const {
    const HeadLayout layout(engine.arithmetic(layers_.front().qkv), tokens.value(), shape_.head_size());
    const Saturating rows = pictures * tokens * (shape_.qkv_stride() + shape_.stride());
    const Saturating heads = pictures * shape_.heads * layout.words();
    return (rows + heads) * sizeof(float) +
           Saturating(engine.threads()) * (RowBlock::bytes(std::max(shape_.width, shape_.middle), shape_.middle) +
                                           sizeof(float) * vision_attention_floats(shape_.head_size()));
}

} // namespace v2e
