#include "cuda/cuda_pass.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace v2e::cuda {
namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned ATTENTION_THREADS = 128;
constexpr size_t ROTATE_HEADS = 8;  // heads that a block rotates
constexpr size_t TILE_ROWS = 64;    // rows that a block of attention_tiles.cuh computes
constexpr size_t CHOOSE_PARTS = 64; // blocks that share a row of logits
constexpr size_t GROUPS_PER_BLOCK = 8;

size_t divide_up(size_t value, size_t divisor) {
    return (value + divisor - 1) / divisor;
}

int as_int(size_t value) {
    return static_cast<int>(value);
}

int stage_of(size_t layer, Stage stage) {
    return as_int(layer) * STAGES + stage;
}

RowForm form_for(const UploadedMatrix &reader, bool few) {
    if (!reader.quantized())
        return FORM_FLOATS;
    return few ? FORM_PLANES : FORM_HALVES;
}

// Rows that a kernel of linear_few.cuh takes at once: the fewest that do, or the most that there is.
size_t rows_at_once(const UploadedMatrix &matrix, size_t count) {
    const bool tuned = matrix.quantized() && matrix.code == Code::uniform;
    if (!tuned)
        return count == 1 ? 1 : 4;
    return count == 1 ? 1 : count == 2 ? 2 : count <= 4 ? 4 : 8;
}

} // namespace

CudaPass::CudaPass(const Decoder &decoder, const CudaDecoder &on_device, const CudaCache &cache,
                   const CudaScratch &scratch, const Queue &queue, size_t rows, size_t segments)
    : decoder_(decoder), on_device_(on_device), cache_(cache), scratch_(scratch), queue_(queue),
      device_(on_device.device()), config_(decoder.config()), count_(rows), segments_(segments) {}

PackedRows CudaPass::packed() const {
    PackedRows rows{};
    rows.floats = scratch_.floats.as<float>();
    rows.halves = {scratch_.halves.as<uint16_t>(), scratch_.factors.as<float>()};
    rows.planes = {scratch_.planes.as<uint8_t>(), scratch_.plane_sums.as<int32_t>(), scratch_.plane_scales.as<float>()};
    return rows;
}

// Rows (count, columns), or what a norm or an activation makes of them, in the form that `reader` takes.
void CudaPass::pack(const char *kernel, const float *input, const float *norm, size_t columns,
                    const UploadedMatrix &reader, size_t count, bool few, int input_stage, int stage) {
    PackArguments arguments{};
    arguments.input = input;
    arguments.weight = norm;
    arguments.output = packed();
    arguments.form = form_for(reader, few);
    arguments.columns = as_int(columns);
    arguments.group_size = reader.matrix.group_size;
    arguments.epsilon = config_.rms_norm_eps;
    arguments.status = status();
    arguments.input_stage = input_stage;
    arguments.stage = stage;
    size_t parts = 1;
    if (arguments.form == FORM_PLANES)
        parts = divide_up(columns / static_cast<size_t>(reader.matrix.group_size), GROUPS_PER_BLOCK);
    device_.launch(kernel, {count, parts}, THREADS, queue_.stream(), arguments);
}

// output (count, stride) = packed rows * matrix^T + bias, added to what it holds if `add`.
void CudaPass::multiply(const UploadedMatrix &matrix, float *output, size_t stride, bool add, size_t count, bool few) {
    LinearArguments arguments{};
    arguments.matrix = matrix.matrix;
    arguments.input = packed();
    arguments.output = output;
    arguments.count = as_int(count);
    arguments.output_stride = as_int(stride);
    arguments.add = add ? 1 : 0;
    const auto rows = static_cast<size_t>(matrix.matrix.rows);
    std::string kernel;
    Grid grid{};
    if (few) {
        const size_t at_once = rows_at_once(matrix, count);
        kernel = std::string("v2e_few_") + matrix.code_name() + "_" + std::to_string(at_once);
        grid = {divide_up(rows, FEW_ROWS), divide_up(count, at_once)};
    } else if (matrix.quantized()) {
        kernel = std::string("v2e_many_") + matrix.code_name();
        grid = {divide_up(rows, PANEL * MANY_PANELS), divide_up(count, MANY_ROWS)};
    } else {
        kernel = std::string("v2e_plain_") + matrix.code_name();
        grid = {divide_up(rows, PANEL), divide_up(count, PLAIN_ROWS)};
    }
    device_.launch(kernel.c_str(), grid, THREADS, queue_.stream(), arguments);
}

void CudaPass::project_qkv(size_t layer) {
    const UploadedLayer &weights = on_device_.layers()[layer];
    pack("v2e_norm_rows", hidden(0), weights.input_norm, config_.hidden_size, weights.qkv, count_, few(),
         stage_of(layer, STAGE_RESIDUAL), stage_of(layer, STAGE_INPUT_NORM));
    multiply(weights.qkv, scratch_.qkv.as<float>(), config_.qkv_size(), false, count_, few());
    rotate(layer);
}

void CudaPass::rotate(size_t layer) {
    RotateArguments arguments{};
    arguments.qkv = scratch_.qkv.as<float>();
    arguments.frequencies = on_device_.frequencies();
    arguments.cache = cache_.layer(layer, position());
    arguments.heads = as_int(config_.heads);
    arguments.kv_heads = as_int(config_.kv_heads);
    arguments.head_size = as_int(config_.head_size);
    arguments.status = status();
    arguments.stage = stage_of(layer, STAGE_QKV);
    const size_t heads = config_.heads + 2 * config_.kv_heads;
    device_.launch("v2e_rotate_rows", {divide_up(heads, ROTATE_HEADS), count_}, THREADS, queue_.stream(), arguments);
}

void CudaPass::attend(size_t layer) {
    const UploadedLayer &weights = on_device_.layers()[layer];
    attend_rows(layer);
    pack("v2e_copy_rows", scratch_.attended.as<float>(), nullptr, config_.query_size(), weights.output, rows(), few(),
         stage_of(layer, STAGE_ATTENTION), stage_of(layer, STAGE_ATTENTION));
    multiply(weights.output, hidden(first_), config_.hidden_size, true, rows(), few());
}

void CudaPass::attend_rows(size_t layer) {
    const size_t group = config_.heads / config_.kv_heads;
    AttentionArguments arguments{};
    arguments.queries = scratch_.qkv.as<float>() + first_ * config_.qkv_size();
    arguments.cache = cache_.layer(layer, position());
    arguments.partials = scratch_.partials.as<float>();
    arguments.output = scratch_.attended.as<float>();
    arguments.query_stride = as_int(config_.qkv_size());
    arguments.first_row = as_int(first_);
    arguments.rows = as_int(rows());
    arguments.segments = as_int(scratch_.segments);
    arguments.heads = as_int(config_.heads);
    arguments.kv_heads = as_int(config_.kv_heads);
    arguments.head_size = as_int(config_.head_size);
    arguments.score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_size)));
    arguments.status = status();
    arguments.stage = stage_of(layer, STAGE_ATTENTION);
    const std::string precision = cache_.precision() == KvPrecision::int8   ? "int8"
                                  : cache_.precision() == KvPrecision::fp16 ? "fp16"
                                                                            : "fp32";
    const bool tiles = !few() && (config_.head_size == 64 || config_.head_size == 128) && precision != "fp32";
    std::string kernel = (few() ? "v2e_attend_segment_" : "v2e_attend_whole_") + precision;
    Grid grid{few() ? segments_ : 1, config_.kv_heads * divide_up(group, MOST_HEADS), rows()};
    if (tiles) {
        kernel = "v2e_attend_tiles_" + precision + "_" + std::to_string(config_.head_size);
        grid = {divide_up(rows(), TILE_ROWS), config_.heads};
    }
    device_.launch(kernel.c_str(), grid, ATTENTION_THREADS, queue_.stream(), arguments);
    if (few())
        device_.launch("v2e_join_segments", {config_.heads, rows()}, ATTENTION_THREADS, queue_.stream(), arguments);
}

void CudaPass::run_mlp(size_t layer) {
    const UploadedLayer &weights = on_device_.layers()[layer];
    const size_t middle = config_.intermediate_size;
    pack("v2e_norm_rows", hidden(first_), weights.post_attention_norm, config_.hidden_size, weights.gate_up, rows(),
         few(), stage_of(layer, STAGE_MIDDLE), stage_of(layer, STAGE_MIDDLE_NORM));
    multiply(weights.gate_up, scratch_.gate_up.as<float>(), 2 * middle, false, rows(), few());
    pack("v2e_swiglu_rows", scratch_.gate_up.as<float>(), nullptr, middle, weights.down, rows(), few(),
         stage_of(layer, STAGE_ACTIVATION), stage_of(layer, STAGE_ACTIVATION));
    multiply(weights.down, hidden(first_), config_.hidden_size, true, rows(), few());
}

// Prefills take the kernels for few rows as well: mostly one row alone has logits.
void CudaPass::compute_logits(size_t row, size_t count) {
    pack("v2e_norm_rows", hidden(row), on_device_.norm(), config_.hidden_size, on_device_.head(), count, true,
         stage_of(config_.layers, STAGE_RESIDUAL), stage_of(config_.layers, STAGE_INPUT_NORM));
    multiply(on_device_.head(), scratch_.logits.as<float>(), config_.vocabulary_size, false, count, true);
    ChooseArguments arguments{};
    arguments.logits = scratch_.logits.as<float>();
    arguments.best = scratch_.state.as<PassState>()->best;
    arguments.vocabulary = as_int(config_.vocabulary_size);
    arguments.status = status();
    arguments.stage = stage_of(config_.layers, STAGE_LOGITS);
    const size_t parts = std::min(CHOOSE_PARTS, divide_up(config_.vocabulary_size, THREADS));
    device_.launch("v2e_choose_largest", {parts, count}, THREADS, queue_.stream(), arguments);
}

} // namespace v2e::cuda
