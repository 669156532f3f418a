// The kernels of the vision towers, once for every instruction set: include a words_*.hpp header first.

#include "cpu/simd/unroll.hpp"
#include "cpu/vision/vision_kernels.hpp"

#include <limits>
#include <math.h> // the C function: no template

namespace v2e::V2E_SIMD {

namespace {

constexpr size_t LANES = VISION_LANES;
constexpr size_t ROWS = static_cast<size_t>(TILE_ROWS);
constexpr float SMALLEST_RANGE = 1e-30f; // 255 / range is finite
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

// ------------------------------------------------------------------------------------------------ rows of floats

// The values from `i` on, zero behind `size`.
inline Vec load_part(const float *values, size_t i, size_t size) {
    const Vec part = load(values + i);
    return size - i < LANES ? first_lanes(part, static_cast<int>(size - i), 0.0f) : part;
}

inline float smallest_of(Vec value) {
    return -largest_of(splat(0.0f) - value);
}

// Ba et al. (2016), "Layer Normalization".
bool layer_norm(const float *row, size_t size, const float *weight, const float *bias, float epsilon, float *output) {
    Vec sum = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES)
        sum = sum + load_part(row, i, size);
    const Vec mean = splat(sum_of(sum) / static_cast<float>(size));
    Vec squares = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec away = load(row + i) - mean;
        const Vec part = size - i < LANES ? first_lanes(away, static_cast<int>(size - i), 0.0f) : away;
        squares = fma(part, part, squares);
    }
    const Vec factor = splat(1.0f / sqrtf(sum_of(squares) / static_cast<float>(size) + epsilon));
    Vec check = splat(0.0f); // NaN as soon as a result is not finite
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = fma((load(row + i) - mean) * factor, load(weight + i), load(bias + i));
        const Vec part = size - i < LANES ? first_lanes(value, static_cast<int>(size - i), 0.0f) : value;
        store(output + i, part);
        check = fma(part, splat(0.0f), check);
    }
    return sum_of(check) == 0.0f;
}

float soften_row(float *row, size_t size) {
    Vec most = splat(MINUS_INFINITY);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = load(row + i);
        most =
            at_least(size - i < LANES ? first_lanes(value, static_cast<int>(size - i), MINUS_INFINITY) : value, most);
    }
    const Vec largest = splat(largest_of(most));
    Vec total = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = exponential(load(row + i) - largest);
        const Vec part = size - i < LANES ? first_lanes(value, static_cast<int>(size - i), 0.0f) : value;
        store(row + i, part);
        total = total + part;
    }
    return sum_of(total);
}

float sum_below(const float *row, size_t size, float limit) {
    Vec total = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = load_part(row, i, size);
        total = total + (value - zero_below(value, value, limit));
    }
    return sum_of(total);
}

// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) {
    return splat(1.0f) / (splat(1.0f) + exponential(splat(0.0f) - x));
}

// x times the normal distribution's probability below x, from the error function after Abramowitz and Stegun, 7.1.26:
// to 1e-7.
inline Vec exact_gelu(Vec x) {
    const Vec z = at_least(x, splat(0.0f) - x) * splat(0.70710678118654752f);
    const Vec t = splat(1.0f) / fma(z, splat(0.3275911f), splat(1.0f));
    Vec y = splat(1.061405429f);
    y = fma(y, t, splat(-1.453152027f));
    y = fma(y, t, splat(1.421413741f));
    y = fma(y, t, splat(-0.284496736f));
    y = fma(y, t, splat(0.254829592f)) * t;
    const Vec tail = y * exponential(splat(0.0f) - z * z) * splat(0.5f); // probability above |x|
    // max(x, 0) - |x| * tail
    return at_least(x, splat(0.0f)) - at_least(x, splat(0.0f) - x) * tail;
}

template <Finish F>
inline Vec activate(Vec x) {
    if constexpr (F == Finish::gelu)
        return exact_gelu(x);
    else if constexpr (F == Finish::gelu_tanh) // (1 + tanh u) / 2 is the sigmoid of 2u
        return x * sigmoid(x * fma(x * x, splat(0.07135481627f), splat(1.5957691216f)));
    else if constexpr (F == Finish::quick_gelu)
        return x * sigmoid(x * splat(1.702f));
    else
        return x;
}

// --------------------------------------------------------------------------------------------------- packing

template <class Op>
bool pack_integers(const float *row, size_t columns, uint32_t *words, float *scale, int32_t *zero) {
    auto *elements = reinterpret_cast<typename Op::Element *>(words);
    Vec low = splat(0.0f), high = splat(0.0f), check = splat(0.0f);
    for (size_t i = 0; i < columns; i += LANES) {
        const Vec value = load_part(row, i, columns);
        low = at_most(low, value);
        high = at_least(high, value);
        check = fma(value, splat(0.0f), check);
    }
    const float least = smallest_of(low), range = largest_of(high) - least;
    const bool finite = sum_of(check) == 0.0f;
    const bool some = finite && range > SMALLEST_RANGE && range < std::numeric_limits<float>::infinity();
    const float inverse = some ? 255.0f / range : 0.0f;
    const Vec shift = nearest(splat(-least * inverse));
    float shifts[LANES];
    store(shifts, shift);
    for (size_t i = 0; i < columns; i += LANES) {
        const Vec value = some ? nearest(load_part(row, i, columns) * splat(inverse)) + shift : splat(0.0f);
        Op::store_row(elements + i, at_most(at_least(value, splat(0.0f)), splat(255.0f)));
    }
    *scale = some ? range / 255.0f : 0.0f;
    *zero = (some ? static_cast<int32_t>(shifts[0]) : 0) - Op::OFFSET;
    return finite;
}

template <class Op>
bool pack_floats(const float *row, size_t columns, uint32_t *words, float *, int32_t *) {
    auto *elements = reinterpret_cast<typename Op::Element *>(words);
    Vec check = splat(0.0f);
    for (size_t i = 0; i < columns; i += LANES) {
        const Vec value = load_part(row, i, columns);
        check = fma(value, splat(0.0f), check);
        Op::store_row(elements + i, value);
    }
    return sum_of(check) == 0.0f;
}

template <class Op>
bool pack_row(const float *row, size_t columns, uint32_t *words, float *scale, int32_t *zero) {
    if constexpr (Op::INTEGER)
        return pack_integers<Op>(row, columns, words, scale, zero);
    else
        return pack_floats<Op>(row, columns, words, scale, zero);
}

// --------------------------------------------------------------------------------------------------- products

template <class Op, int Vectors>
inline void clear(typename Op::Sum (&sums)[TILE_ROWS][Vectors]) {
    V2E_UNROLL
    for (int r = 0; r < TILE_ROWS; ++r) {
        V2E_UNROLL
        for (int v = 0; v < Vectors; ++v)
            sums[r][v] = Op::none();
    }
}

// sums (ROWS, Vectors * 16) += rows (ROWS, words) * panel (words, Vectors * 16). Word w of row r is
// rows[r * row_stride + w * word_stride].
template <class Op, int Vectors>
inline void tile(const uint32_t *rows, size_t row_stride, size_t word_stride, const uint32_t *panel,
                 size_t panel_stride, size_t words, typename Op::Sum (&sums)[TILE_ROWS][Vectors]) {
    for (size_t word = 0; word < words; ++word) {
        Words outputs[Vectors];
        V2E_UNROLL
        for (int v = 0; v < Vectors; ++v)
            outputs[v] = load_words(panel + word * panel_stride + static_cast<size_t>(v) * LANES);
        V2E_UNROLL
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Words value = splat_word(rows[static_cast<size_t>(r) * row_stride + word * word_stride]);
            V2E_UNROLL
            for (int v = 0; v < Vectors; ++v)
                sums[r][v] = Op::dot(sums[r][v], value, outputs[v]);
        }
    }
}

// The loop of a matrix product in a function of its own: one copy serves every way to finish.
template <class Op>
V2E_NOINLINE void matrix_tile(const uint32_t *rows, const uint32_t *panel, size_t words,
                              typename Op::Sum (&totals)[TILE_ROWS][TILE_VECTORS]) {
    typename Op::Sum sums[TILE_ROWS][TILE_VECTORS]; // in registers
    V2E_UNROLL
    for (int r = 0; r < TILE_ROWS; ++r) {
        V2E_UNROLL
        for (int v = 0; v < TILE_VECTORS; ++v)
            sums[r][v] = totals[r][v];
    }
    tile<Op, TILE_VECTORS>(rows, 1, ROWS, panel, VISION_PANEL, words, sums);
    V2E_UNROLL
    for (int r = 0; r < TILE_ROWS; ++r) {
        V2E_UNROLL
        for (int v = 0; v < TILE_VECTORS; ++v)
            totals[r][v] = sums[r][v];
    }
}

template <class Op, Finish F>
inline void finish_tile(const VisionPanels &panels, size_t output, const VisionRows &rows, size_t row,
                        const VisionOutput &target, const typename Op::Sum (&sums)[TILE_ROWS][TILE_VECTORS]) {
    const size_t count = rows.count - row < ROWS ? rows.count - row : ROWS;
    for (int v = 0; v < TILE_VECTORS; ++v) {
        const size_t at = output + static_cast<size_t>(v) * LANES;
        const Vec bias = panels.bias == nullptr ? splat(0.0f) : load(panels.bias + at);
        for (size_t r = 0; r < count; ++r) {
            const size_t index = row + r;
            Vec value;
            if constexpr (Op::INTEGER) {
                const Words column_sums = load_words(reinterpret_cast<const uint32_t *>(panels.sums + at));
                const Vec scale = splat(rows.scales[index]) * load(panels.scales + at);
                value = fma(Op::to_float(sums[r][v], column_sums, rows.zeros[index]), scale, bias);
            } else {
                value = sums[r][v] + bias;
            }
            float *place = target.values + index * target.stride + at;
            value = activate<F>(value);
            if constexpr (F == Finish::add)
                value = value + load(place);
            store(place, value);
        }
    }
}

// Some words of a panel side by side, converted where the arithmetic wants that.
template <class Op>
void pick_words(const uint32_t *panel, const uint32_t *picks, size_t count, uint32_t *target) {
    constexpr size_t WIDENED = Op::STORED / Op::PER_WORD;
    for (size_t i = 0; i < count; ++i) {
        const uint32_t *source = panel + picks[i] * VISION_PANEL;
        uint32_t *place = target + i * WIDENED * VISION_PANEL;
        if constexpr (Op::CONVERTS)
            Op::convert(source, 1, place);
        else
            for (size_t lane = 0; lane < VISION_PANEL; lane += LANES)
                store_words(place + lane, load_words(source + lane));
    }
}

// What a group of panels shares: some rows, whose sums wait here while the words of the panels pass block by block.
template <class Op>
struct PanelSums {
    static constexpr size_t PANELS = 4;
    static constexpr size_t ROW_TILES = 96 / ROWS;
    static constexpr size_t PARTS = VISION_PANEL / (TILE_VECTORS * LANES);
    typename Op::Sum sums[PANELS][ROW_TILES][PARTS][TILE_ROWS][TILE_VECTORS];
};

// The words of a matrix, block by block. `first` and `count` are of words as they are multiplied.
template <class Op>
class PanelReader {
  public:
    static constexpr size_t WIDENED = Op::STORED / Op::PER_WORD;

    PanelReader(const VisionPanels &panels, uint32_t *scratch)
        : panels_(panels), groups_((panels.columns + Op::STORED - 1) / Op::STORED),
          stored_(reinterpret_cast<const uint32_t *>(panels.weight)), scratch_(scratch) {}

    size_t words() const { return (panels_.picks == nullptr ? groups_ : panels_.pick_count) * WIDENED; }

    // In scratch, unless they lie in the file as they are multiplied.
    const uint32_t *read(size_t panel, size_t first, size_t count) const {
        if (panels_.picks != nullptr) {
            pick_words<Op>(place(panel, 0), panels_.picks + first / WIDENED, count / WIDENED, scratch_);
            return scratch_;
        }
        if constexpr (Op::CONVERTS) {
            Op::convert(place(panel, first), count / WIDENED, scratch_);
            return scratch_;
        } else {
            return place(panel, first);
        }
    }

    // Begins to fetch a part of a block: the `step`th of `steps`.
    void fetch(size_t panel, size_t first, size_t count, size_t step, size_t steps) const {
        constexpr size_t LINE = 64 / sizeof(uint32_t);
        if (panels_.picks != nullptr)
            return;
        const size_t lines = count / WIDENED * VISION_PANEL / LINE;
        for (size_t line = step * lines / steps; line < (step + 1) * lines / steps; ++line)
            prefetch(place(panel, first) + line * LINE);
    }

  private:
    const uint32_t *place(size_t panel, size_t first) const {
        return stored_ + (panel * groups_ + first / WIDENED) * VISION_PANEL;
    }

    const VisionPanels &panels_;
    size_t groups_;
    const uint32_t *stored_;
    uint32_t *scratch_;
};

// Up to PANELS panels from `panel` on with up to ROW_TILES tiles of rows. A block of a panel's words stays in the
// first-level cache while all rows pass, those of the rows in the second-level cache while all panels pass; what comes
// next is fetched meanwhile.
template <class Op, Finish F>
class PanelGroup {
  public:
    PanelGroup(const VisionPanels &panels, const PanelReader<Op> &reader, size_t panel, size_t last,
               const VisionRows &rows, size_t row, const VisionOutput &target, PanelSums<Op> &sums)
        : panels_(panels), reader_(reader), panel_(panel), last_(last), rows_(rows), row_(row), target_(target),
          sums_(sums) {}

    void multiply() {
        const size_t words = reader_.words(), most = panel_ + Sums::PANELS, end = last_ < most ? last_ : most;
        for (size_t first = 0; first < words; first += VISION_BLOCK_WORDS)
            for (size_t panel = panel_; panel < end && !stops(rows_.stop); ++panel) {
                Block next{panel + 1, first};
                if (next.panel == end)
                    next =
                        first + VISION_BLOCK_WORDS < words ? Block{panel_, first + VISION_BLOCK_WORDS} : Block{end, 0};
                multiply_block({panel, first}, next);
            }
    }

  private:
    using Sums = PanelSums<Op>;
    struct Block {
        size_t panel, first;
    };

    size_t count(const Block &block) const {
        const size_t left = reader_.words() - block.first;
        return left < VISION_BLOCK_WORDS ? left : VISION_BLOCK_WORDS;
    }

    void multiply_block(const Block &block, const Block &next) {
        const bool last = block.first + VISION_BLOCK_WORDS >= reader_.words(), fetches = next.panel < last_;
        const size_t words = count(block), steps = Sums::ROW_TILES * Sums::PARTS;
        const uint32_t *panel = reader_.read(block.panel, block.first, words);
        const uint32_t *rows = rows_.words + block.first * round_up(rows_.count, ROWS);
        size_t row = row_;
        for (size_t index = 0; index < Sums::ROW_TILES && row < rows_.count; ++index, row += ROWS)
            for (size_t part = 0; part < Sums::PARTS; ++part) {
                auto &sums = sums_.sums[block.panel - panel_][index][part];
                const size_t lane = part * TILE_VECTORS * LANES;
                if (fetches)
                    reader_.fetch(next.panel, next.first, count(next), index * Sums::PARTS + part, steps);
                if (block.first == 0)
                    clear<Op, TILE_VECTORS>(sums);
                matrix_tile<Op>(rows + row * VISION_BLOCK_WORDS, panel + lane, words, sums);
                if (last)
                    finish_tile<Op, F>(panels_, block.panel * VISION_PANEL + lane, rows_, row, target_, sums);
            }
    }

    const VisionPanels &panels_;
    const PanelReader<Op> &reader_;
    size_t panel_, last_;
    const VisionRows &rows_;
    size_t row_;
    const VisionOutput &target_;
    Sums &sums_;
};

template <class Op, Finish F>
void multiply_panels(const VisionPanels &panels, size_t first, size_t last, const VisionRows &rows,
                     const VisionOutput &target, uint32_t *scratch) {
    using Sums = PanelSums<Op>;
    alignas(64) Sums sums;
    const PanelReader<Op> reader(panels, scratch);
    for (size_t panel = first; panel < last; panel += Sums::PANELS)
        for (size_t row = 0; row < rows.count; row += Sums::ROW_TILES * ROWS)
            PanelGroup<Op, F>(panels, reader, panel, last, rows, row, target, sums).multiply();
}

template <class Op>
void multiply(const VisionPanels &panels, size_t first, size_t last, const VisionRows &rows, const VisionOutput &target,
              uint32_t *scratch) {
    switch (target.finish) {
    case Finish::store:
        return multiply_panels<Op, Finish::store>(panels, first, last, rows, target, scratch);
    case Finish::add:
        return multiply_panels<Op, Finish::add>(panels, first, last, rows, target, scratch);
    case Finish::gelu:
        return multiply_panels<Op, Finish::gelu>(panels, first, last, rows, target, scratch);
    case Finish::gelu_tanh:
        return multiply_panels<Op, Finish::gelu_tanh>(panels, first, last, rows, target, scratch);
    case Finish::quick_gelu:
        return multiply_panels<Op, Finish::quick_gelu>(panels, first, last, rows, target, scratch);
    }
}

// -------------------------------------------------------------------------------------------------- attention

// A key less the mean of all keys, which adds the same to all scores of a query: the softmax does not see it.
template <class Op>
void pack_key(const float *key, const float *mean, size_t index, const VisionHead &head) {
    const size_t size = head.size, words = round_up(size, LANES) / Op::PER_WORD;
    alignas(64) float centred[512];
    Vec most = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = load_part(key, i, size) - load(mean + i);
        store(centred + i, value);
        most = at_least(most, at_least(value, splat(0.0f) - value));
    }
    const float largest = largest_of(most);
    const bool some = largest > SMALLEST_RANGE;
    const Vec factor = splat(Op::INTEGER ? (some ? 127.0f / largest : 0.0f) : 1.0f);
    alignas(64) uint32_t row[512];
    auto *elements = reinterpret_cast<typename Op::Element *>(row);
    Vec sum = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec scaled = load(centred + i) * factor;
        const Vec value = Op::INTEGER ? nearest(scaled) : scaled;
        sum = sum + value;
        Op::store_panel(elements + i, value);
    }
    uint32_t *column = head.keys + index / VISION_PANEL * words * VISION_PANEL + index % VISION_PANEL;
    for (size_t word = 0; word < words; ++word)
        column[word * VISION_PANEL] = row[word];
    head.key_scales[index] = Op::INTEGER ? (some ? largest / 127.0f : 0.0f) : 1.0f;
    head.key_sums[index] = Op::INTEGER ? static_cast<int32_t>(sum_of(sum)) : 0;
}

template <class Op>
void pack_keys(const float *keys, size_t stride, const VisionHead &head) {
    alignas(64) float mean[512];
    const Vec share = splat(1.0f / static_cast<float>(head.count));
    for (size_t i = 0; i < head.size; i += LANES) {
        Vec sum = splat(0.0f);
        for (size_t key = 0; key < head.count; ++key)
            sum = sum + load_part(keys + key * stride, i, head.size);
        store(mean + i, sum * share);
    }
    for (size_t key = 0; key < head.count; ++key)
        pack_key<Op>(keys + key * stride, mean, key, head);
    const size_t words = round_up(head.size, LANES) / Op::PER_WORD;
    for (size_t key = head.count; key < round_up(head.count, VISION_PANEL); ++key) {
        uint32_t *column = head.keys + key / VISION_PANEL * words * VISION_PANEL + key % VISION_PANEL;
        for (size_t word = 0; word < words; ++word)
            column[word * VISION_PANEL] = 0;
        head.key_scales[key] = 0.0f;
        head.key_sums[key] = 0;
    }
}

template <class Op>
void pack_values(const float *values, size_t stride, const VisionHead &head) {
    const size_t width = round_up(head.size, LANES), padded = round_up(head.count, VISION_PANEL);
    for (size_t i = 0; i < width; i += LANES) {
        Vec most = splat(0.0f);
        for (size_t key = 0; key < head.count; ++key) {
            const Vec value = load_part(values + key * stride, i, head.size);
            most = at_least(most, at_least(value, splat(0.0f) - value));
        }
        float largest[LANES], factors[LANES];
        store(largest, most);
        for (size_t lane = 0; lane < LANES; ++lane) {
            const bool some = largest[lane] > SMALLEST_RANGE;
            factors[lane] = Op::INTEGER ? (some ? 127.0f / largest[lane] : 0.0f) : 1.0f;
            head.value_scales[i + lane] = Op::INTEGER ? (some ? largest[lane] / 127.0f : 0.0f) : 1.0f;
        }
        const Vec factor = load(factors);
        for (size_t key = 0; key < padded; key += Op::PER_WORD) {
            Vec parts[Op::PER_WORD];
            for (size_t j = 0; j < Op::PER_WORD; ++j) {
                parts[j] = splat(0.0f);
                if (key + j < head.count) {
                    const Vec scaled = load_part(values + (key + j) * stride, i, head.size) * factor;
                    parts[j] = Op::INTEGER ? nearest(scaled) : scaled;
                }
            }
            store_words(head.values + key / Op::PER_WORD * width + i, Op::join(parts));
        }
    }
}

template <class Op>
void pack_head(const float *keys, const float *values, size_t stride, const VisionHead &head) {
    pack_keys<Op>(keys, stride, head);
    pack_values<Op>(values, stride, head);
}

// scores (count, VISION_KEYS) of the keys [first, last); those behind the last key are minus infinity.
template <class Op>
void score(const VisionRows &queries, const VisionHead &head, float scale, size_t first, size_t last, float *scores) {
    const size_t words = round_up(head.size, LANES) / Op::PER_WORD;
    const size_t used = (head.size + Op::PER_WORD - 1) / Op::PER_WORD; // the keys' others are zeros
    for (size_t key = first; key < last; key += TILE_VECTORS * LANES) {
        const uint32_t *panel = head.keys + key / VISION_PANEL * words * VISION_PANEL + key % VISION_PANEL;
        typename Op::Sum sums[TILE_ROWS][TILE_VECTORS];
        clear<Op, TILE_VECTORS>(sums);
        tile<Op, TILE_VECTORS>(queries.words, queries.stride, 1, panel, VISION_PANEL, used, sums);
        V2E_UNROLL
        for (int v = 0; v < TILE_VECTORS; ++v) {
            const size_t at = key + static_cast<size_t>(v) * LANES;
            const int visible = at >= head.count ? 0 : head.count - at < LANES ? static_cast<int>(head.count - at) : 16;
            V2E_UNROLL
            for (int r = 0; r < TILE_ROWS; ++r) {
                const auto row = static_cast<size_t>(r);
                if (row >= queries.count)
                    continue;
                Vec value;
                if constexpr (Op::INTEGER) {
                    const Words key_sums = load_words(reinterpret_cast<const uint32_t *>(head.key_sums + at));
                    value = Op::to_float(sums[r][v], key_sums, queries.zeros[row]) * load(head.key_scales + at) *
                            splat(queries.scales[row] * scale);
                } else {
                    value = sums[r][v] * splat(scale);
                }
                if (visible < 16)
                    value = first_lanes(value, visible, MINUS_INFINITY);
                store(scores + row * VISION_KEYS + (at - first), value);
            }
        }
    }
}

// What a query has summed up over some keys (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax",
// section 3).
struct Running {
    float maximum, total, correction;
};

// Turns the scores of `count` keys into shares of the largest so far. With integers they are rounded first, so that
// their sum is that of what is multiplied.
template <class Op>
void soften(const float *scores, size_t count, typename Op::Element *shares, Running &running) {
    Vec most = splat(running.maximum);
    for (size_t i = 0; i < count; i += LANES)
        most = at_least(load(scores + i), most);
    const float risen = largest_of(most);
    Vec total = splat(0.0f);
    for (size_t i = 0; i < count; i += LANES) {
        Vec share = exponential(load(scores + i) - splat(risen));
        if constexpr (Op::INTEGER) {
            share = nearest(share * splat(Op::MOST_SHARE));
            Op::store_share(shares + i, share);
        } else {
            Op::store_row(shares + i, share);
        }
        total = total + share;
    }
    float factor[LANES];
    store(factor, exponential(splat(running.maximum - risen)));
    running.correction = factor[0];
    running.total = running.total * factor[0] + sum_of(total);
    running.maximum = risen;
}

// values (count, width) = values * correction + shares * the values' panel
template <class Op, int Vectors>
void gather(const uint32_t *shares, size_t stride, const uint32_t *panel, size_t width, size_t words, size_t count,
            const Running *running, float *values) {
    typename Op::Sum sums[TILE_ROWS][Vectors];
    clear<Op, Vectors>(sums);
    tile<Op, Vectors>(shares, stride, 1, panel, width, words, sums);
    V2E_UNROLL
    for (int r = 0; r < TILE_ROWS; ++r) {
        const auto row = static_cast<size_t>(r);
        if (row >= count)
            continue;
        V2E_UNROLL
        for (int v = 0; v < Vectors; ++v) {
            Vec sum;
            if constexpr (Op::INTEGER)
                sum = Op::to_float(sums[r][v]);
            else
                sum = sums[r][v];
            float *place = values + row * width + static_cast<size_t>(v) * LANES;
            store(place, fma(load(place), splat(running[row].correction), sum));
        }
    }
}

// Dao et al. (2022), "FlashAttention", algorithm 1, with a tile of queries against blocks of VISION_KEYS keys.
template <class Op>
bool attend(const VisionRows &queries, const VisionHead &head, float scale, float *output, size_t stride,
            float *scratch) {
    const size_t width = round_up(head.size, LANES), padded = round_up(head.count, VISION_PANEL);
    float *scores = scratch;
    float *values = scratch + ROWS * VISION_KEYS;
    auto *shares = reinterpret_cast<uint32_t *>(values + ROWS * width);
    constexpr size_t SHARE_STRIDE = VISION_KEYS / Op::PER_WORD;
    Running running[ROWS];
    for (size_t row = 0; row < ROWS; ++row)
        running[row] = {MINUS_INFINITY, 0.0f, 0.0f};
    for (size_t i = 0; i < ROWS * width; i += LANES)
        store(values + i, splat(0.0f));
    for (size_t i = 0; i < ROWS * SHARE_STRIDE; i += LANES) // rows beyond the count are multiplied as well
        store_words(shares + i, splat_word(0));
    for (size_t first = 0; first < padded && !stops(queries.stop); first += VISION_KEYS) {
        const size_t last = padded - first < VISION_KEYS ? padded : first + VISION_KEYS;
        score<Op>(queries, head, scale, first, last, scores);
        for (size_t row = 0; row < queries.count; ++row)
            soften<Op>(scores + row * VISION_KEYS, last - first,
                       reinterpret_cast<typename Op::Element *>(shares + row * SHARE_STRIDE), running[row]);
        const uint32_t *panel = head.values + first / Op::PER_WORD * width;
        const size_t words = (last - first) / Op::PER_WORD;
        size_t i = 0;
        for (; i + TILE_VECTORS * LANES <= width; i += TILE_VECTORS * LANES)
            gather<Op, TILE_VECTORS>(shares, SHARE_STRIDE, panel + i, width, words, queries.count, running, values + i);
        for (; i < width; i += LANES)
            gather<Op, 1>(shares, SHARE_STRIDE, panel + i, width, words, queries.count, running, values + i);
    }
    Vec check = splat(0.0f); // NaN as soon as an output is not finite
    for (size_t row = 0; row < queries.count; ++row)
        for (size_t i = 0; i < head.size; i += LANES) {
            Vec value = load(values + row * width + i) / splat(running[row].total);
            if constexpr (Op::INTEGER)
                value = value * load(head.value_scales + i);
            check = fma(value, splat(0.0f), check);
            float lanes[LANES];
            store(lanes, value);
            for (size_t lane = 0; lane < LANES && i + lane < head.size; ++lane)
                output[row * stride + i + lane] = lanes[lane];
        }
    return sum_of(check) == 0.0f;
}

template <class Op>
constexpr VisionArithmetic arithmetic() {
    return {Op::PER_WORD, ROWS, pack_row<Op>, multiply<Op>, pack_head<Op>, attend<Op>};
}

} // namespace

} // namespace v2e::V2E_SIMD
