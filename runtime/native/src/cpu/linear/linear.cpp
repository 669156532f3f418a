#include "cpu/linear/linear.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"
#include "cpu/linear/linear_kernels.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t TASKS_PER_THREAD = 4;    // enough for threads of unequal speed
constexpr size_t STREAMS_PER_THREAD = 16; // likewise, where a task has one tile of rows: nothing is read twice
constexpr size_t BLOCK_PANELS =
    OUTPUT_STRIDE / PANEL;        // panels of a task: they share the input rows in the second-level cache
constexpr size_t LEAST_ROWS = 24; // fewest rows of a task: full register tiles
constexpr size_t BLOCK_WIDTH = OUTPUT_STRIDE;
constexpr size_t GATED_PANELS = BLOCK_PANELS / 2; // and as many that they gate: whole groups of the next product
constexpr size_t SERIAL_PRODUCTS = 64 * 1024;     // below this a parallel region costs more than it saves
constexpr size_t SERIAL_VALUES = 32 * 1024;       // to quantise

size_t divide_up(size_t value, size_t divisor) {
    return (value + divisor - 1) / divisor;
}

// Whether a feed-forward block goes from its first product to the input of the second one without memory in between:
// the halves of gate_up lie in panels of their own.
bool is_fused(const Matrix &gate_up, const Matrix &down) {
    return gate_up.quantized() && down.quantized() && gate_up.rows == 2 * down.columns && down.columns % PANEL == 0;
}

// Some rows of input times some panels.
struct Product {
    const Matrix &matrix;
    const LinearKernels &kernels;
    const QuantizedRows &quantized; // the rows of a quantised matrix
    FloatRows input;                // the rows of any other matrix
    RowTiles tiles;
    bool two_planes;
    const StopFlag *stop;

    // Panels [first, last) times the tiles [first_tile, last_tile), into values (rows, BLOCK_WIDTH).
    void multiply(size_t first, size_t last, size_t first_tile, size_t last_tile, float *values) const {
        const bool partial = last * PANEL > matrix.rows && matrix.bias != nullptr;
        const size_t whole = last - (partial ? 1 : 0);
        if (whole > first)
            multiply_panels(first, whole, first_tile, last_tile,
                            {values, matrix.bias == nullptr ? nullptr : matrix.bias + first * PANEL});
        if (!partial)
            return;
        alignas(64) float bias[PANEL] = {}; // the last panel has more rows than the bias has values
        std::copy_n(matrix.bias + whole * PANEL, matrix.rows - whole * PANEL, bias);
        multiply_panels(whole, last, first_tile, last_tile, {values + (whole - first) * PANEL, bias});
    }

  private:
    void multiply_panels(size_t first, size_t last, size_t first_tile, size_t last_tile,
                         const PanelOutput &target) const {
        if (matrix.quantized()) {
            const IntegerRows rows{two_planes ? quantized.high.data() : nullptr,
                                   quantized.low.data(),
                                   quantized.scales.data(),
                                   quantized.sums.data(),
                                   tiles,
                                   first_tile,
                                   last_tile,
                                   stop};
            kernels.multiply_integer(integer_panels(first, last), rows, target);
            return;
        }
        for (size_t panel = first; panel < last; ++panel) {
            const size_t offset = (panel - first) * PANEL;
            multiply_float(panel, first_tile, last_tile,
                           {target.values + offset, target.bias == nullptr ? nullptr : target.bias + offset});
        }
    }

    IntegerPanels integer_panels(size_t first, size_t last) const {
        const size_t scales = first * matrix.groups() * PANEL, values = matrix.columns * PANEL;
        const size_t bytes = matrix.precision == Precision::int4 ? values / 2 : values;
        return {static_cast<const uint8_t *>(matrix.weight) + first * bytes,
                matrix.scales + scales,
                matrix.zeros == nullptr ? nullptr : matrix.zeros + scales,
                matrix.precision,
                matrix.code,
                matrix.columns,
                matrix.group_size,
                last - first};
    }

    void multiply_float(size_t panel, size_t first_tile, size_t last_tile, const PanelOutput &target) const {
        const size_t value_bytes = matrix.precision == Precision::fp16 ? 2 : 4;
        const std::byte *weight =
            static_cast<const std::byte *>(matrix.weight) + panel * matrix.columns * PANEL * value_bytes;
        const size_t first = tiles.first_row(first_tile), count = tiles.first_row(last_tile) - first;
        kernels.multiply_float({weight, matrix.precision, matrix.columns},
                               {input.values + first * input.stride, input.stride, count, stop}, target);
    }
};

void store_row(const float *values, size_t count, float *output) {
    std::memcpy(output, values, count * sizeof(float));
}

void add_row(const float *values, size_t count, float *output) {
    for (size_t i = 0; i < count; ++i)
        output[i] += values[i];
}

} // namespace

const LinearKernels *linear_kernels(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_AVX512_VNNI:
        return linear_kernels_avx512();
    case V2E_ISA_AVX_VNNI:
        return linear_kernels_avxvnni();
    case V2E_ISA_AVX2:
        return linear_kernels_avx2();
    case V2E_ISA_NEON:
        return linear_kernels_neon();
    case V2E_ISA_PORTABLE:
    case V2E_ISA_AUTO:
        return linear_kernels_portable();
    }
    return nullptr;
}

// How a product is cut into tasks: of neighbouring units of panels, and of neighbouring tiles.
struct Linear::Blocks {
    RowTiles tiles;
    size_t units;
    size_t units_per_task;
    size_t tiles_per_task;
    size_t rows; // most rows of a task
    bool serial;

    // `values` of the matrix; most_units units at most go together.
    Blocks(const RowTiles &row_tiles, size_t tile_rows, size_t unit_count, size_t most_units, size_t values,
           unsigned threads)
        : tiles(row_tiles), units(unit_count), units_per_task(most_units),
          tiles_per_task(std::min(tiles.tiles, BLOCK_ROWS / tile_rows)),
          serial(threads == 1 || values * tiles.count < SERIAL_PRODUCTS) {
        tiles_per_task = divide_up(tiles.tiles, divide_up(tiles.tiles, tiles_per_task)); // equal blocks
        if (!serial) {
            const size_t wanted = (tiles.tiles == 1 ? STREAMS_PER_THREAD : TASKS_PER_THREAD) * threads,
                         least_tiles = divide_up(LEAST_ROWS, tile_rows);
            units_per_task = std::clamp<size_t>(units / wanted, 1, most_units);
            const size_t wanted_tiles = divide_up(tiles.tiles, divide_up(wanted, unit_blocks()));
            tiles_per_task = std::min(tiles_per_task, std::max(wanted_tiles, least_tiles));
        }
        rows = std::min(tiles.count, tiles_per_task * tile_rows);
    }

    size_t unit_blocks() const { return divide_up(units, units_per_task); }
    size_t tile_blocks() const { return divide_up(tiles.tiles, tiles_per_task); }
    size_t tasks() const { return unit_blocks() * tile_blocks(); }
};

// Runs body(first_unit, last_unit, first_tile, last_tile, values) for every task; values (rows, BLOCK_WIDTH) are the
// thread's own.
template <class Body>
void Linear::for_blocks(const Blocks &blocks, LinearScratch &scratch, Body &&body) const {
    const size_t tasks = blocks.tasks(), tile_blocks = blocks.tile_blocks();
    const size_t workers = blocks.serial ? 1 : std::min<size_t>(pool_.threads(), tasks);
    const size_t floats = blocks.rows * BLOCK_WIDTH;
    scratch.blocks.reserve(workers * floats);
    pool_.run_workers(workers, tasks, scratch.stop, [&](size_t worker, size_t task) {
        const size_t first_unit = task / tile_blocks * blocks.units_per_task;
        const size_t first_tile = task % tile_blocks * blocks.tiles_per_task;
        body(first_unit, std::min(blocks.units, first_unit + blocks.units_per_task), first_tile,
             std::min(blocks.tiles.tiles, first_tile + blocks.tiles_per_task), scratch.blocks.data() + worker * floats);
    });
}

Linear::Linear(v2e_isa isa, v2e_activations activations, ThreadPool &pool)
    : Linear(isa == V2E_ISA_AUTO ? best_isa() : isa, nullptr, activations, pool) {}

Linear::Linear(v2e_isa isa, const LinearKernels *kernels, v2e_activations activations, ThreadPool &pool)
    : isa_(isa), two_planes_(activations == V2E_ACTIVATIONS_INT16), pool_(pool),
      kernels_(kernels != nullptr ? kernels : linear_kernels(isa)) {
    if (!isa_available(isa_) || kernels_ == nullptr)
        fail(V2E_ERROR_INPUT, "This machine or this build does not have the instruction set %s.", isa_name(isa_));
    elementwise_ = &elementwise_kernels(isa_);
}

void Linear::apply(const Matrix &matrix, const float *input, size_t count, size_t input_stride, float *output,
                   size_t output_stride, LinearScratch &scratch, Placing placing) const {
    if (count == 0)
        return;
    if (matrix.quantized())
        quantize(matrix, input, count, input_stride, scratch.input, scratch.stop);
    multiply(matrix, scratch.input, {input, input_stride, count}, output, output_stride, scratch, placing);
}

void Linear::multiply(const Matrix &matrix, const QuantizedRows &quantized, const FloatRows &input, float *output,
                      size_t output_stride, LinearScratch &scratch, Placing placing) const {
    const RowTiles tiles(input.count, kernels_->tile_rows);
    const Product product{matrix, *kernels_, quantized, input, tiles, two_planes_, scratch.stop};
    const Blocks blocks(tiles, kernels_->tile_rows, matrix.panels(), BLOCK_PANELS, matrix.rows * matrix.columns,
                        pool_.threads());
    const auto finish_row = placing == Placing::store ? store_row : add_row;
    for_blocks(blocks, scratch,
               [&](size_t first_panel, size_t last_panel, size_t first_tile, size_t last_tile, float *values) {
                   product.multiply(first_panel, last_panel, first_tile, last_tile, values);
                   const size_t first = first_panel * PANEL, width = std::min(matrix.rows, last_panel * PANEL) - first;
                   const size_t first_row = tiles.first_row(first_tile), last_row = tiles.first_row(last_tile);
                   for (size_t row = first_row; row < last_row; ++row)
                       finish_row(values + (row - first_row) * BLOCK_WIDTH, width,
                                  output + row * output_stride + first);
               });
}

bool Linear::feed_forward(const Matrix &gate_up, const Matrix &down, const float *input, size_t count, float *output,
                          LinearScratch &scratch) const {
    if (count == 0)
        return true;
    const size_t middle = down.columns;
    if (is_fused(gate_up, down)) {
        quantize(gate_up, input, count, gate_up.columns, scratch.input, scratch.stop);
        const bool finite = fill_middle(gate_up, down, count, scratch);
        multiply(down, scratch.middle, {nullptr, 0, count}, output, down.rows, scratch, Placing::add);
        return finite;
    }
    scratch.gated.reserve(count * 2 * middle);
    apply(gate_up, input, count, gate_up.columns, scratch.gated.data(), 2 * middle, scratch);
    std::atomic<bool> finite{true};
    pool_.run_workers(pool_.threads(), count, scratch.stop, [&](size_t, size_t row) {
        float *gate = scratch.gated.data() + row * 2 * middle;
        if (!elementwise_->swiglu(gate, gate + middle, middle))
            finite.store(false, std::memory_order_relaxed);
    });
    apply(down, scratch.gated.data(), count, 2 * middle, output, down.rows, scratch, Placing::add);
    return finite.load();
}

// The quantised input of `down`. A task has two panels of the gate and the two that they gate.
bool Linear::fill_middle(const Matrix &gate_up, const Matrix &down, size_t count, LinearScratch &scratch) const {
    const size_t half = gate_up.panels() / 2;
    const RowTiles tiles(count, kernels_->tile_rows);
    const Product product{gate_up, *kernels_, scratch.input, {nullptr, 0, count}, tiles, two_planes_, scratch.stop};
    const Blocks blocks(tiles, kernels_->tile_rows, divide_up(half, GATED_PANELS), 1, gate_up.rows * gate_up.columns,
                        pool_.threads());
    reserve(down, count, scratch.middle);
    std::atomic<bool> finite{true};
    for_blocks(blocks, scratch, [&](size_t unit, size_t, size_t first_tile, size_t last_tile, float *gate) {
        const size_t first = unit * GATED_PANELS, last = std::min(half, first + GATED_PANELS);
        float *up = gate + GATED_PANELS * PANEL;
        product.multiply(first, last, first_tile, last_tile, gate);
        product.multiply(half + first, half + last, first_tile, last_tile, up);
        const size_t first_row = tiles.first_row(first_tile), width = (last - first) * PANEL;
        for (size_t tile = first_tile; tile < last_tile; ++tile) {
            const size_t offset = (tiles.first_row(tile) - first_row) * BLOCK_WIDTH;
            for (size_t row = 0; row < tiles.rows(tile); ++row)
                if (!elementwise_->swiglu(gate + offset + row * BLOCK_WIDTH, up + offset + row * BLOCK_WIDTH, width))
                    finite.store(false, std::memory_order_relaxed);
            kernels_->quantize_tile(gate + offset, BLOCK_WIDTH, width, down.group_size,
                                    tile_of(down, scratch.middle, tiles, tile, first * PANEL));
        }
    });
    return finite.load();
}

void Linear::reserve(const Matrix &matrix, size_t count, QuantizedRows &rows) const {
    rows.low.reserve(count * matrix.columns);
    if (two_planes_)
        rows.high.reserve(count * matrix.columns);
    rows.scales.reserve(count * matrix.groups());
    rows.sums.reserve(count * matrix.groups());
}

// Where the columns from `column` on of a tile belong.
IntegerTile Linear::tile_of(const Matrix &matrix, QuantizedRows &target, const RowTiles &tiles, size_t tile,
                            size_t column) const {
    const size_t row = tiles.first_row(tile), rows = tiles.rows(tile);
    const size_t values = row * matrix.columns + column * rows;
    const size_t groups = row * matrix.groups() + column / matrix.group_size * rows;
    return {two_planes_ ? target.high.data() + values : nullptr, target.low.data() + values,
            target.scales.data() + groups, target.sums.data() + groups, rows};
}

void Linear::quantize(const Matrix &matrix, const float *input, size_t count, size_t stride, QuantizedRows &target,
                      const StopFlag *stop) const {
    reserve(matrix, count, target);
    const RowTiles tiles(count, kernels_->tile_rows);
    const size_t tasks = std::clamp<size_t>(count * matrix.columns / SERIAL_VALUES, 1, tiles.tiles);
    pool_.run_workers(pool_.threads(), tasks, stop, [&](size_t, size_t task) {
        for (size_t tile = tiles.tiles * task / tasks; tile < tiles.tiles * (task + 1) / tasks; ++tile)
            kernels_->quantize_tile(input + tiles.first_row(tile) * stride, stride, matrix.columns, matrix.group_size,
                                    tile_of(matrix, target, tiles, tile, 0));
    });
}

namespace {

size_t quantized_bytes(const Matrix &matrix, size_t count, bool two_planes) {
    if (!matrix.quantized())
        return 0;
    return count * (matrix.columns * (two_planes ? 2 : 1) + matrix.groups() * (sizeof(float) + sizeof(int32_t)));
}

} // namespace

size_t linear_bytes(const Matrix &matrix, size_t count, bool two_planes) {
    return quantized_bytes(matrix, count, two_planes);
}

size_t feed_forward_bytes(const Matrix &gate_up, const Matrix &down, size_t count, bool two_planes) {
    if (is_fused(gate_up, down))
        return quantized_bytes(down, count, two_planes);
    return count * gate_up.rows * sizeof(float);
}

size_t linear_block_bytes(size_t count, unsigned threads) {
    return threads * std::min(count, BLOCK_ROWS) * BLOCK_WIDTH * sizeof(float);
}

} // namespace v2e
