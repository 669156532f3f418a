// The kernels of rounding, once for every instruction set: include a simd_*.hpp header first.

#include "cpu/rounding/rounding_kernels.hpp"

namespace v2e::V2E_SIMD {

namespace {

constexpr size_t LANES = ROUNDING_ROWS;
constexpr int SHRINK_STEPS = 21;           // the range of a group times 1, 0.97, ..., 0.4
constexpr float SMALLEST_SCALE = 0x1p-24f; // the smallest subnormal number of fp16
constexpr float LARGEST_SCALE = 65504.0f;

inline Vec as_half(Vec value) {
    uint16_t half[LANES];
    store(half, value);
    return load(half);
}

inline Vec between(Vec value, Vec lowest, Vec highest) {
    return at_most(at_least(value, lowest), highest);
}

inline Vec magnitude(Vec value) {
    return at_least(value, splat(0.0f) - value);
}

// Sixteen rows with a stride to (count, 16) and back.
template <class Element>
void gather_rows(const Element *rows, size_t stride, size_t count, float *panel) {
    for (size_t lane = 0; lane < LANES; ++lane)
        for (size_t i = 0; i < count; ++i)
            panel[i * LANES + lane] = static_cast<float>(rows[lane * stride + i]);
}
template <class Element>
void scatter_rows(const float *panel, size_t count, Element *rows, size_t stride) {
    for (size_t lane = 0; lane < LANES; ++lane)
        for (size_t i = 0; i < count; ++i)
            rows[lane * stride + i] = static_cast<Element>(panel[i * LANES + lane]);
}

// One group's grid in sixteen rows.
struct Fit {
    Vec scale, zero;
};

// Rounds a scale to fp16. One that would vanish becomes the smallest that fp16 has; a group of zeros keeps 0.
inline Vec storable(Vec exact) {
    const Vec zero = splat(0.0f), small = splat(SMALLEST_SCALE);
    const Vec half = as_half(exact);
    const Vec nearest_one = where_less(zero, exact, small, where_less(exact, zero, zero - small, zero));
    return where_less(zero, magnitude(half), half, nearest_one);
}

inline Vec divisor(Vec scale) {
    return where_less(splat(0.0f), magnitude(scale), scale, splat(1.0f));
}

// The grid that covers a range. Symmetric int4 takes its scale from the end of larger magnitude, sign included, which
// then sits on the lowest level.
inline Fit cover(const GroupGrid &grid, Vec low, Vec high) {
    const Vec zero = splat(0.0f);
    if (grid.has_zeros) {
        const Vec down = at_most(low, zero), up = at_least(high, zero); // zero stays representable
        const Vec scale = storable((up - down) / splat(grid.highest - grid.lowest));
        const Vec level = nearest((zero - down) / divisor(scale));
        return {scale, between(level, splat(grid.lowest), splat(grid.highest))};
    }
    const Vec opposite = zero - low;
    if (grid.lowest > 0) // int8: from -127 to 127
        return {storable(at_least(opposite, high) / splat(grid.fixed_zero - grid.lowest)), splat(grid.fixed_zero)};
    const Vec extreme = where_less(opposite, high, high, low);
    return {storable(extreme / splat(-grid.fixed_zero)), splat(grid.fixed_zero)};
}

// The costs of a scale with each of COUNT zero points: the sum of importance * (level - weight)^2.
template <int COUNT>
inline void add_costs(const GroupGrid &grid, const float *panel, const float *importance, Vec scale,
                      const Vec (&zeros)[COUNT], Vec (&costs)[COUNT]) {
    const Vec factor = splat(1.0f) / divisor(scale);
    Vec lowest[COUNT], highest[COUNT];
    for (int i = 0; i < COUNT; ++i) {
        lowest[i] = splat(grid.lowest) - zeros[i];
        highest[i] = splat(grid.highest) - zeros[i];
        costs[i] = splat(0.0f);
    }
    for (size_t column = 0; column < grid.group_size; ++column) {
        const Vec weight = load(panel + column * LANES);
        const Vec level = nearest(weight * factor);
        const Vec price = splat(importance[column]);
        for (int i = 0; i < COUNT; ++i) {
            const Vec error = between(level, lowest[i], highest[i]) * scale - weight;
            costs[i] = fma(error * price, error, costs[i]);
        }
    }
}

// Tries the shrunk ranges in turn, where there are zero points each with its neighbours; of two grids that are equally
// good the first stays.
inline Fit search(const GroupGrid &grid, const float *panel, const float *importance, Vec low, Vec high) {
    Fit best = cover(grid, low, high);
    Vec smallest = splat(0.0f);
    for (int step = 0; step < SHRINK_STEPS; ++step) {
        const Vec factor = splat(static_cast<float>(1.0 - 0.03 * step));
        const Fit fit = cover(grid, low * factor, high * factor);
        const Vec lowest = splat(grid.lowest), highest = splat(grid.highest);
        const Vec zeros[3] = {fit.zero, between(fit.zero - splat(1.0f), lowest, highest),
                              between(fit.zero + splat(1.0f), lowest, highest)};
        Vec costs[3];
        int count = 1;
        if (grid.has_zeros) {
            add_costs<3>(grid, panel, importance, fit.scale, zeros, costs);
            count = 3;
        } else {
            const Vec only[1] = {zeros[0]};
            Vec cost[1];
            add_costs<1>(grid, panel, importance, fit.scale, only, cost);
            costs[0] = cost[0];
        }
        if (step == 0)
            smallest = costs[0];
        for (int i = 0; i < count; ++i) {
            best.scale = where_less(costs[i], smallest, fit.scale, best.scale);
            best.zero = where_less(costs[i], smallest, zeros[i], best.zero);
            smallest = where_less(costs[i], smallest, costs[i], smallest);
        }
    }
    return best;
}

// panel: (group_size, 16).
uint32_t fit_group(const GroupGrid &grid, const float *panel, const float *importance, float *scales, float *zeros) {
    Vec low = load(panel), high = low, check = splat(0.0f);
    for (size_t column = 0; column < grid.group_size; ++column) {
        const Vec weight = load(panel + column * LANES);
        low = at_most(weight, low);
        high = at_least(weight, high);
        check = fma(weight, splat(0.0f), check); // NaN as soon as a weight is not finite
    }
    if (!is_zero(check))
        return ROUNDING_NOT_FINITE;
    const Fit fit = grid.search ? search(grid, panel, importance, low, high) : cover(grid, low, high);
    store(scales, fit.scale);
    store(zeros, fit.zero);
    const Vec widest = cover(grid, low, high).scale;
    const Vec over = where_less(splat(LARGEST_SCALE), magnitude(widest), splat(1.0f), splat(0.0f));
    return is_zero(over) ? 0u : ROUNDING_SCALE_TOO_LARGE;
}

uint32_t fit_groups(const GroupGrid &grid, const float *weights, size_t stride, const float *importance, size_t first,
                    size_t last, float *scales, float *zeros, size_t grid_stride) {
    float panel[ROUNDING_COLUMNS * LANES];
    uint32_t faults = 0;
    for (size_t group = first; group < last; ++group) {
        const size_t column = group * grid.group_size;
        gather_rows(weights + column, stride, grid.group_size, panel);
        faults |=
            fit_group(grid, panel, importance + column, scales + group * grid_stride, zeros + group * grid_stride);
    }
    return faults;
}

// The weights of a group that would be best when none of it is rounded: each target counts on all later positions
// having changed, and those of the group change to their own best weights. targets (count, 16); best (group_size, 16).
void best_weights(const ColumnBlock &block, size_t row, size_t first, const float *targets, float *best) {
    const size_t size = block.grid.group_size;
    for (size_t i = 0; i < size * LANES; i += LANES)
        store(best + i, load(targets + first * LANES + i));
    for (size_t i = size; i-- > 0;) {
        const Vec opposite = load(block.weights + (first + i) * block.rows + row) - load(best + i * LANES);
        const float *factors = block.triangle + (first + i) * block.triangle_stride + first;
        for (size_t earlier = 0; earlier < i; ++earlier)
            store(best + earlier * LANES, fma(splat(factors[earlier]), opposite, load(best + earlier * LANES)));
    }
}

uint32_t round_columns(const ColumnBlock &block, size_t row) {
    float best[ROUNDING_COLUMNS * LANES];
    float targets[ROUNDING_COLUMNS * LANES]; // (count, 16)
    const GroupGrid &grid = block.grid;
    for (size_t i = 0; i < block.count; ++i)
        store(targets + i * LANES, load(block.targets + i * block.rows + row));
    uint32_t faults = 0;
    for (size_t position = block.count; position-- > 0;) {
        const size_t column = block.columns[position], group = column / grid.group_size;
        float *scales = block.scales + group * block.rows + row, *zeros = block.zeros + group * block.rows + row;
        if (block.fits_groups && (position + 1) % grid.group_size == 0) {
            const size_t first = position + 1 - grid.group_size;
            best_weights(block, row, first, targets, best);
            faults |= fit_group(grid, best, block.importance + first, scales, zeros);
        }
        const Vec scale = load(scales), zero = load(zeros), target = load(targets + position * LANES);
        const Vec value = between(nearest(target / divisor(scale)) + zero, splat(grid.lowest), splat(grid.highest));
        const Vec rounded = (value - zero) * scale;
        store(block.targets + position * block.rows + row, rounded - target);
        float *weights = block.weights + position * block.rows + row;
        const Vec change = rounded - load(weights);
        store(weights, change);
        const float *factors = block.triangle + position * block.triangle_stride;
        const Vec opposite = splat(0.0f) - change;
        for (size_t i = 0; i < position; ++i)
            store(targets + i * LANES, fma(splat(factors[i]), opposite, load(targets + i * LANES)));
        float lanes[LANES];
        store(lanes, value);
        for (size_t lane = 0; lane < LANES; ++lane)
            block.values[(row + lane) * block.value_stride + column] = static_cast<uint8_t>(lanes[lane]);
    }
    return faults;
}

void add_rows(const uint32_t *indices, const float *amounts, size_t count, const float *matrix, size_t stride,
              float *target, size_t size) {
    constexpr size_t VECTORS = 4;
    size_t column = 0;
    for (; column + VECTORS * LANES <= size; column += VECTORS * LANES) {
        Vec sums[VECTORS];
        for (size_t i = 0; i < VECTORS; ++i)
            sums[i] = load(target + column + i * LANES);
        for (size_t entry = 0; entry < count; ++entry) {
            const float *source = matrix + indices[entry] * stride + column;
            const Vec amount = splat(amounts[entry]);
            for (size_t i = 0; i < VECTORS; ++i)
                sums[i] = fma(amount, load(source + i * LANES), sums[i]);
        }
        for (size_t i = 0; i < VECTORS; ++i)
            store(target + column + i * LANES, sums[i]);
    }
    for (; column < size; column += LANES) {
        Vec sum = load(target + column);
        for (size_t entry = 0; entry < count; ++entry)
            sum = fma(splat(amounts[entry]), load(matrix + indices[entry] * stride + column), sum);
        store(target + column, sum);
    }
}

// Sixteen rows of up to ROUNDING_COLUMNS columns while they are visited; arrays are (count, 16).
struct Visit {
    Visit(const VisitBlock &block, size_t first, size_t count, size_t row)
        : block(block), first(first), count(count), row(row) {}

    const VisitBlock &block;
    size_t first, count; // columns of the block
    size_t row;
    float slopes[ROUNDING_COLUMNS * LANES];
    float levels[ROUNDING_COLUMNS * LANES]; // values minus zero points
    float old_slopes[ROUNDING_COLUMNS * LANES];
    float old_weights[ROUNDING_COLUMNS * LANES];

    const float *curvature(size_t column) const {
        return block.curvature + (first + column) * block.curvature_stride + first; // (count,)
    }
    float *scales(size_t column) const {
        return block.scales + (first + column) / block.grid.group_size * block.rows + row;
    }
    Vec zero(size_t column) const {
        return load(block.zeros + (first + column) / block.grid.group_size * block.rows + row);
    }

    void begin() {
        gather_rows(block.slopes + row * block.slope_stride + first, block.slope_stride, count, slopes);
        gather_rows(block.values + row * block.value_stride + first, block.value_stride, count, levels);
        for (size_t column = 0; column < count; ++column) {
            float *level = levels + column * LANES;
            store(level, load(level) - zero(column));
            store(old_weights + column * LANES, load(level) * load(scales(column)));
            store(old_slopes + column * LANES, load(slopes + column * LANES));
        }
    }

    // Gives each column its best level, one column after the other.
    void choose_levels() {
        const GroupGrid &grid = block.grid;
        for (size_t column = 0; column < count; ++column) {
            const float *bend = curvature(column);
            const Vec scale = load(scales(column)), zeros = zero(column);
            // A group of zeros keeps its levels.
            const Vec factor =
                where_less(splat(0.0f), magnitude(scale), splat(-1.0f / bend[column]) / divisor(scale), splat(0.0f));
            const Vec level = load(levels + column * LANES);
            const Vec wanted = nearest(fma(load(slopes + column * LANES), factor, level));
            const Vec chosen = between(wanted, splat(grid.lowest) - zeros, splat(grid.highest) - zeros);
            const Vec step = (chosen - level) * scale;
            if (is_zero(step))
                continue;
            store(levels + column * LANES, chosen);
            for (size_t i = 0; i < count; ++i)
                store(slopes + i * LANES, fma(splat(bend[i]), step, load(slopes + i * LANES)));
        }
    }

    // response[i] = sum over the group's columns of curvature[column][i] * level[column], for all columns i.
    void respond(size_t group_first, float *response) const {
        constexpr size_t TILE = 4;
        const size_t size = block.grid.group_size;
        for (size_t tile = 0; tile < count; tile += TILE) {
            Vec sums[TILE];
            for (size_t i = 0; i < TILE; ++i)
                sums[i] = splat(0.0f);
            for (size_t column = group_first; column < group_first + size; ++column) {
                const float *bend = curvature(column) + tile;
                const Vec level = load(levels + column * LANES);
                for (size_t i = 0; i < TILE; ++i)
                    sums[i] = fma(splat(bend[i]), level, sums[i]);
            }
            for (size_t i = 0; i < TILE; ++i)
                store(response + (tile + i) * LANES, sums[i]);
        }
    }

    // Fits the scale of a group to its integers, rounded to fp16, where that lowers the error.
    void fit_scale(size_t group_first) {
        float response[ROUNDING_COLUMNS * LANES];
        respond(group_first, response);
        Vec bend = splat(0.0f), slope = splat(0.0f);
        for (size_t column = group_first; column < group_first + block.grid.group_size; ++column) {
            const Vec level = load(levels + column * LANES);
            bend = fma(level, load(response + column * LANES), bend);
            slope = fma(level, load(slopes + column * LANES), slope);
        }
        const Vec zero = splat(0.0f), one = splat(1.0f);
        const Vec scale = load(scales(group_first));
        const Vec fitted = as_half(scale - slope / where_less(zero, bend, bend, one));
        const Vec step = fitted - scale;
        Vec better = where_less(zero, bend, one, zero);
        better = where_less(zero, fitted * scale, better, zero);
        better = where_less(magnitude(fitted), splat(2 * LARGEST_SCALE), better, zero);
        better = where_less(step * (slope + slope + step * bend), zero, better, zero);
        if (is_zero(better))
            return;
        const Vec taken = where_less(zero, better, step, zero);
        store(scales(group_first), where_less(zero, better, fitted, scale));
        for (size_t i = 0; i < count; ++i)
            store(slopes + i * LANES, fma(load(response + i * LANES), taken, load(slopes + i * LANES)));
    }

    // Writes what has changed, and how much the error fell: a quadratic function changes by the step times half the sum
    // of its slopes before and after, which are half the derivatives here.
    void finish() {
        Vec gain = splat(0.0f);
        Vec moved = splat(0.0f);
        for (size_t column = 0; column < count; ++column) {
            const size_t at = column * LANES;
            const Vec scale = load(scales(column)), level = load(levels + at);
            const Vec change = level * scale - load(old_weights + at);
            moved = at_least(moved, magnitude(change));
            gain = gain - change * (load(old_slopes + at) + load(slopes + at));
            store(old_weights + at, change);
            store(levels + at, level + zero(column));
        }
        float *changes = block.changes + row * block.count + first;
        scatter_rows(old_weights, count, changes, block.count);
        if (is_zero(moved))
            return;
        write_values();
        float lanes[LANES];
        store(lanes, gain);
        for (size_t lane = 0; lane < LANES; ++lane)
            block.gains[row + lane] += static_cast<double>(lanes[lane]);
        if (block.updates_slopes)
            update_slopes();
    }

    void write_values() const {
        for (size_t lane = 0; lane < LANES; ++lane) {
            uint8_t *values = block.values + (row + lane) * block.value_stride + first;
            uint8_t different = 0;
            for (size_t column = 0; column < count; ++column) {
                const auto value = static_cast<uint8_t>(levels[column * LANES + lane]);
                different |= static_cast<uint8_t>(value ^ values[column]);
                values[column] = value;
            }
            if (different != 0)
                block.moved[row + lane] = 1;
        }
    }

    // Applies the changes of this block to the slopes of all the columns that are visited together.
    void update_slopes() const {
        for (size_t lane = 0; lane < LANES; ++lane) {
            uint32_t indices[ROUNDING_COLUMNS];
            float amounts[ROUNDING_COLUMNS];
            size_t entries = 0;
            float *row_slopes = block.slopes + (row + lane) * block.slope_stride;
            for (size_t column = 0; column < count; ++column) {
                const float change = old_weights[column * LANES + lane];
                indices[entries] = static_cast<uint32_t>(first + column);
                amounts[entries] = change;
                entries += change != 0.0f ? 1 : 0;
            }
            if (entries != 0)
                add_rows(indices, amounts, entries, block.curvature, block.curvature_stride, row_slopes, block.count);
        }
    }
};

void visit_columns(const VisitBlock &block, size_t row) {
    for (size_t first = 0; first < block.count; first += ROUNDING_COLUMNS) {
        const size_t left = block.count - first;
        Visit visit(block, first, left < ROUNDING_COLUMNS ? left : ROUNDING_COLUMNS, row);
        visit.begin();
        for (int round = 0; round < block.rounds; ++round) {
            visit.choose_levels();
            if (block.fits_scales)
                for (size_t group = 0; group < visit.count; group += block.grid.group_size)
                    visit.fit_scale(group);
        }
        visit.finish();
    }
}

} // namespace

constinit const RoundingKernels rounding = {fit_groups, round_columns, visit_columns, add_rows};

} // namespace v2e::V2E_SIMD
