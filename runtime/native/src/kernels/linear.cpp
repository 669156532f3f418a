#include "kernels/linear.hpp"

#include "error.hpp"
#include "isa.hpp"
#include "kernels/linear_kernels.hpp"

#include <algorithm>
#include <cstring>

namespace v2e {
namespace {

constexpr size_t TASKS_PER_THREAD = 4;        // enough for threads of unequal speed
constexpr size_t PANELS_PER_TASK = 4;         // at most: they share the input rows in the second-level cache
constexpr size_t ROWS_PER_TASK = 24;          // of input, at least: full register tiles
constexpr size_t SERIAL_PRODUCTS = 64 * 1024; // below this a parallel region costs more than it saves
constexpr size_t SERIAL_VALUES = 32 * 1024;   // to quantise

const LinearKernels *kernels_for(v2e_isa isa) {
    switch (isa) {
    case V2E_ISA_AVX512_VNNI:
        return linear_kernels_avx512();
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

size_t divide_up(size_t value, size_t divisor) {
    return (value + divisor - 1) / divisor;
}

// How a product is cut into tasks: blocks of panels, and of input rows when there are few panels.
struct TaskPlan {
    size_t panels_per_task;
    size_t rows_per_task;
    size_t row_blocks;
    size_t tasks;
};

TaskPlan plan_tasks(const Matrix &matrix, size_t count, unsigned threads) {
    const size_t panels = matrix.panels();
    TaskPlan plan{PANELS_PER_TASK, count, 1, divide_up(panels, PANELS_PER_TASK)};
    if (threads == 1)
        return plan;
    if (matrix.rows * matrix.columns * count < SERIAL_PRODUCTS)
        return {panels, count, 1, 1};
    const size_t wanted = TASKS_PER_THREAD * threads;
    plan.panels_per_task = std::clamp<size_t>(panels / wanted, 1, PANELS_PER_TASK);
    const size_t panel_blocks = divide_up(panels, plan.panels_per_task);
    if (panel_blocks < wanted)
        plan.rows_per_task = std::max(ROWS_PER_TASK, divide_up(count, divide_up(wanted, panel_blocks)));
    plan.row_blocks = divide_up(count, plan.rows_per_task);
    plan.tasks = panel_blocks * plan.row_blocks;
    return plan;
}

// One call of apply: what every task needs to know.
struct Product {
    const Matrix &matrix;
    const float *input;
    size_t count, input_stride;
    float *output;
    size_t output_stride;
    LinearScratch &scratch;
    const LinearKernels &kernels;
    bool two_planes;

    // Input rows [first, last) times the panels [first_panel, last_panel).
    void multiply(size_t first_panel, size_t last_panel, size_t first, size_t last) const {
        const bool partial = last_panel * PANEL > matrix.rows;
        const size_t whole = last_panel - (partial ? 1 : 0);
        if (whole > first_panel) {
            const float *bias = matrix.bias == nullptr ? nullptr : matrix.bias + first_panel * PANEL;
            multiply_panels(first_panel, whole, first, last,
                            {output + first * output_stride + first_panel * PANEL, output_stride, bias});
        }
        if (partial)
            multiply_partial(whole, first, last);
    }

    // The last panel, when it has fewer than 64 rows, by way of the scratch.
    void multiply_partial(size_t panel, size_t first, size_t last) const {
        const size_t valid = matrix.rows - panel * PANEL;
        alignas(64) float bias[PANEL] = {};
        if (matrix.bias != nullptr)
            std::copy_n(matrix.bias + panel * PANEL, valid, bias);
        multiply_panels(panel, panel + 1, first, last,
                        {scratch.partial.data() + first * PANEL, PANEL, matrix.bias == nullptr ? nullptr : bias});
        for (size_t row = first; row < last; ++row)
            std::copy_n(scratch.partial.data() + row * PANEL, valid, output + row * output_stride + panel * PANEL);
    }

    void multiply_panels(size_t first_panel, size_t last_panel, size_t first, size_t last,
                         const PanelOutput &target) const {
        if (matrix.quantized())
            multiply_integer(first_panel, last_panel, first, last, target);
        else
            for (size_t panel = first_panel; panel < last_panel; ++panel) {
                const size_t offset = (panel - first_panel) * PANEL;
                multiply_float(
                    panel, first, last,
                    {target.values + offset, target.stride, target.bias == nullptr ? nullptr : target.bias + offset});
            }
    }

    void multiply_integer(size_t first_panel, size_t last_panel, size_t first, size_t last,
                          const PanelOutput &target) const {
        const size_t columns = matrix.columns, groups = matrix.groups();
        const size_t bytes = matrix.precision == Precision::int4 ? columns * PANEL / 2 : columns * PANEL;
        const IntegerPanels weights{static_cast<const uint8_t *>(matrix.weight) + first_panel * bytes,
                                    matrix.scales + first_panel * groups * PANEL,
                                    matrix.zeros == nullptr ? nullptr : matrix.zeros + first_panel * groups * PANEL,
                                    matrix.precision,
                                    matrix.code,
                                    columns,
                                    matrix.group_size,
                                    last_panel - first_panel};
        const IntegerRows rows{two_planes ? scratch.high.data() + first * columns : nullptr,
                               scratch.low.data() + first * columns, scratch.scales.data() + first * groups,
                               scratch.sums.data() + first * groups, last - first};
        kernels.multiply_integer(weights, rows, target);
    }

    void multiply_float(size_t panel, size_t first, size_t last, const PanelOutput &target) const {
        const size_t value_bytes = matrix.precision == Precision::fp16 ? 2 : 4;
        const std::byte *weight =
            static_cast<const std::byte *>(matrix.weight) + panel * matrix.columns * PANEL * value_bytes;
        const FloatRows rows{input + first * input_stride, input_stride, last - first};
        kernels.multiply_float({weight, matrix.precision, matrix.columns}, rows, target);
    }
};

} // namespace

Linear::Linear(v2e_isa isa, v2e_activations activations, ThreadPool &pool)
    : isa_(isa == V2E_ISA_AUTO ? best_isa() : isa), activations_(activations), pool_(pool),
      kernels_(isa_available(isa_) ? kernels_for(isa_) : nullptr) {
    if (kernels_ == nullptr)
        fail(V2E_ERROR_INPUT, "This machine or this build does not have the instruction set %s.", isa_name(isa_));
}

void Linear::apply(const Matrix &matrix, const float *input, size_t count, size_t input_stride, float *output,
                   size_t output_stride, LinearScratch &scratch) const {
    if (count == 0)
        return;
    if (matrix.quantized())
        quantize(matrix, input, count, input_stride, scratch);
    if (matrix.rows % PANEL != 0)
        scratch.partial.reserve(count * PANEL);
    const Product product{matrix,       input,     count,
                          input_stride, output,    output_stride,
                          scratch,      *kernels_, activations_ == V2E_ACTIVATIONS_INT16};
    const TaskPlan plan = plan_tasks(matrix, count, pool_.threads());
    pool_.run(plan.tasks, [&](size_t task) {
        const size_t first_row = task % plan.row_blocks * plan.rows_per_task;
        const size_t last_row = std::min(count, first_row + plan.rows_per_task);
        const size_t first_panel = task / plan.row_blocks * plan.panels_per_task;
        const size_t last_panel = std::min(matrix.panels(), first_panel + plan.panels_per_task);
        product.multiply(first_panel, last_panel, first_row, last_row);
    });
}

void Linear::quantize(const Matrix &matrix, const float *input, size_t count, size_t input_stride,
                      LinearScratch &scratch) const {
    const size_t columns = matrix.columns, groups = matrix.groups();
    const bool two_planes = activations_ == V2E_ACTIVATIONS_INT16;
    scratch.low.reserve(count * columns);
    if (two_planes)
        scratch.high.reserve(count * columns);
    scratch.scales.reserve(count * groups);
    scratch.sums.reserve(count * groups);
    const size_t rows_per_task = std::max<size_t>(1, SERIAL_VALUES / columns);
    pool_.run(divide_up(count, rows_per_task), [&](size_t task) {
        const size_t last = std::min(count, (task + 1) * rows_per_task);
        for (size_t row = task * rows_per_task; row < last; ++row)
            kernels_->quantize_row(input + row * input_stride, columns, matrix.group_size,
                                   two_planes ? scratch.high.data() + row * columns : nullptr,
                                   scratch.low.data() + row * columns, scratch.scales.data() + row * groups,
                                   scratch.sums.data() + row * groups);
    });
}

} // namespace v2e
