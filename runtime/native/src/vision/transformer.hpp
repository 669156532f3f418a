// The layers that SigLIP and Eagle have in common: full attention inside each picture, and an MLP.
#pragma once

#include "vision/row_block.hpp"
#include "vision/tower.hpp"

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace v2e {

struct TransformerShape {
    size_t width;
    size_t heads;
    size_t middle; // width of the MLP
    size_t layers;
    float epsilon; // added to the variance in the norms
    Finish activation;

    size_t head_size() const { return width / heads; }
    size_t stride() const { return round_up(width, VISION_PANEL); } // floats from one hidden row to the next
    size_t qkv_stride() const {
        return round_up(3 * width, VISION_PANEL);
    } // the same for rows of queries, keys and values
};

// Tokens of some pictures, as many of each. The angles are those of one picture's tokens.
struct TransformerInput {
    float *hidden; // (pictures * tokens, stride): the residual stream, in and out
    size_t pictures;
    size_t tokens;
    const float *cosine; // (tokens, head_size / 2), null without rotary positions
    const float *sine;

    size_t rows() const { return pictures * tokens; }
};

class Transformer {
  public:
    // The matrices and norms of `layers.{i}.` of a file.
    Transformer(const TowerFile &file, const TransformerShape &shape);

    const TransformerShape &shape() const { return shape_; }
    // `step` is called before each layer with its number.
    void run(TowerEngine &engine, const TransformerInput &input, const std::function<void(size_t)> &step);
    double operations(size_t pictures, size_t tokens) const;
    Saturating scratch_bytes(const TowerEngine &engine, Saturating pictures, Saturating tokens) const;

  private:
    struct Layer {
        TowerNorm norm1;
        TowerMatrix qkv, output;
        TowerNorm norm2;
        TowerMatrix up, down;
    };
    // The memory of one worker during attention.
    struct Attender {
        AlignedBuffer<uint32_t> words; // a tile of queries
        AlignedBuffer<float> scales;
        AlignedBuffer<int32_t> zeros;
        AlignedBuffer<float> scratch;
    };
    class Pass;

    void check_head(const TowerFile &file) const;

    TransformerShape shape_;
    std::string tower_;
    std::vector<Layer> layers_;

    AlignedBuffer<float> qkv_;      // (rows, qkv_stride)
    AlignedBuffer<float> attended_; // (rows, stride)
    AlignedBuffer<uint32_t> heads_; // keys and values of all heads, packed
    std::vector<RowBlock> blocks_;
    std::vector<Attender> attenders_;
};

} // namespace v2e
