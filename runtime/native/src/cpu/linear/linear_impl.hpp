// Loops around the inner products, shared by all instruction sets. Included once by each linear_<isa>.cpp, which passes
// its vector operations as the type Isa:
//   LANES                 int32 or float values in a vector
//   ROWS                  most input rows in one register tile
//   vectors<R>()          vectors of weight rows in a tile of R input rows
//   SIGNED_INT8           int8 weights are read as q and not as q + 128
//   TABLES                split<Source::nf4_packed> is fast enough to be repeated for every tile
//   STREAMED_TILES        most tiles for which packed weights are better unpacked again than kept unpacked
//   OneRow                the Isa, with vectors that may be shorter, by which a single row is multiplied
//   split<S>(packed, ...) the weights of some packed bytes: the columns in their low halves, and in their high halves
//   dot<S>(sums, w, ...)  adds the products of one group of columns, activations (columns / 4, R, 4), to int32 sums
//   multiply_byte<WIDE>   bytes in int32 lanes times an integer, which fits into 16 bits unless WIDE
// and elementary operations on Float and Int vectors.
//
// Everything is in an unnamed namespace: these files are compiled for different processors, and the linker must not
// merge their functions.
#pragma once

#include "cpu/linear/linear_kernels.hpp"
#include "cpu/simd/unroll.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace v2e {
namespace {

// How the weights of a group lie in front of the inner product.
enum class Source {
    int4_packed,   // as in the file
    int4_unpacked, // one byte each, in the layout of int8
    nf4_packed,    // as in the file; unpacked they are int8
    int8           // as in the file: q + 128
};

constexpr bool is_packed(Source source) {
    return source == Source::int4_packed || source == Source::nf4_packed;
}

constexpr Source unpacked(Source source) {
    return source == Source::int4_packed ? Source::int4_unpacked : Source::int8;
}

struct ByteTable {
    uint8_t bytes[16];
};

// The codes of 4-bit NormalFloat times 127 (docs/bundle.md, "Panels"), as q or as q + 128.
constexpr ByteTable nf4_table(bool is_signed) {
    constexpr int LEVELS[16] = {-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127};
    ByteTable table{};
    for (size_t i = 0; i < 16; ++i)
        table.bytes[i] = static_cast<uint8_t>(LEVELS[i] + (is_signed ? 0 : 128));
    return table;
}

template <bool SIGNED>
inline constexpr ByteTable NF4_TABLE = nf4_table(SIGNED);

// Below this magnitude a group counts as zero: the reciprocal of its scale would overflow.
constexpr float SMALLEST_MAGNITUDE = 1e-30f;
constexpr float INT8_LIMIT = 127.0f;
constexpr float INT16_LIMIT = 127.0f * 128.0f;
constexpr int32_t INFINITY_BITS = 0x7f800000;

inline float scalar_from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Some quads of columns of one row among the `rows` of a tile.
template <class Isa>
inline void store_quads(int8_t *target, size_t rows, typename Isa::Int value) {
    int8_t bytes[Isa::LANES];
    Isa::store_int8(bytes, value);
    for (size_t quad = 0; quad < Isa::LANES; quad += 4)
        std::memcpy(target + quad * rows, bytes + quad, 4);
}

// One group of columns of one row. A group with a NaN or an infinity gets that as its scale and zeros as its integers,
// so that the product is not finite either.
template <class Isa>
inline void quantize_group(const float *values, size_t group_size, const IntegerTile &tile) {
    using Int = typename Isa::Int;
    const float limit = tile.high != nullptr ? INT16_LIMIT : INT8_LIMIT;
    // Bit patterns of magnitudes are ordered like the magnitudes, with NaN at the top.
    Int largest = Isa::set_int(0);
    for (size_t k = 0; k < group_size; k += Isa::LANES)
        largest = Isa::max_int(largest, Isa::magnitude_bits(Isa::load(values + k)));
    const int32_t largest_bits = Isa::reduce_max(largest);
    const float magnitude = scalar_from_bits(largest_bits);
    const bool finite = largest_bits < INFINITY_BITS, some = finite && magnitude >= SMALLEST_MAGNITUDE;
    *tile.scales = some ? magnitude / limit : finite ? 0.0f : magnitude;
    const typename Isa::Float reciprocal = Isa::broadcast(some ? limit / magnitude : 0.0f);
    Int sum = Isa::set_int(0);
    for (size_t k = 0; k < group_size; k += Isa::LANES) {
        const Int value = some ? Isa::round(Isa::multiply(Isa::load(values + k), reciprocal)) : Isa::set_int(0);
        sum = Isa::add_int(sum, value);
        if (tile.high == nullptr) {
            store_quads<Isa>(tile.low + k * tile.rows, tile.rows, value);
            continue;
        }
        const Int upper = Isa::shift_right_7(Isa::add_int(value, Isa::set_int(64)));
        store_quads<Isa>(tile.high + k * tile.rows, tile.rows, upper);
        store_quads<Isa>(tile.low + k * tile.rows, tile.rows, Isa::subtract_int(value, Isa::shift_left_7(upper)));
    }
    *tile.sums = Isa::reduce_add(sum);
}

template <class Isa>
void quantize_tile(const float *values, size_t stride, size_t columns, size_t group_size, const IntegerTile &tile) {
    for (size_t row = 0; row < tile.rows; ++row)
        for (size_t begin = 0, group = 0; begin < columns; begin += group_size, ++group) {
            const size_t quads = (begin * tile.rows) + row * 4, at = group * tile.rows + row;
            const IntegerTile target{tile.high == nullptr ? nullptr : tile.high + quads, tile.low + quads,
                                     tile.scales + at, tile.sums + at, tile.rows};
            quantize_group<Isa>(values + row * stride + begin, group_size, target);
        }
}

template <class Isa>
constexpr uint8_t default_zero(Source source) {
    if (source == Source::int4_packed || source == Source::int4_unpacked)
        return 8;
    return Isa::SIGNED_INT8 ? 0 : 128;
}

// Bytes of some columns of a panel: packed weights have half a byte each.
constexpr size_t panel_bytes(Source source, size_t columns) {
    return is_packed(source) ? columns * PANEL / 2 : columns * PANEL;
}

// One panel of several.
struct IntegerPanel {
    const uint8_t *weight;
    const uint16_t *scales; // (groups, 64)
    const uint8_t *zeros;   // (groups, 64) or null
    size_t columns;
    size_t group_size;
};

inline IntegerPanel panel_of(const IntegerPanels &panels, Source source, size_t index) {
    const size_t scales = panels.columns / panels.group_size * PANEL;
    return {panels.weight + index * panel_bytes(source, panels.columns), panels.scales + index * scales,
            panels.zeros == nullptr ? nullptr : panels.zeros + index * scales, panels.columns, panels.group_size};
}

inline PanelOutput output_of(const PanelOutput &output, size_t index) {
    return {output.values + index * PANEL, output.bias == nullptr ? nullptr : output.bias + index * PANEL};
}

// R input rows that pass together.
struct RowTile {
    const int8_t *high; // (columns / 4, R, 4) or null
    const int8_t *low;
    const float *scales; // (groups, R)
    const int32_t *sums;
    size_t row; // the first one in the output
};

// R sums of `VECTORS` vectors from the bias or from zero.
template <class Isa, int R, size_t VECTORS>
inline void start_sums(float *target, const float *bias) {
    V2E_UNROLL
    for (size_t c = 0; c < VECTORS; ++c) {
        const typename Isa::Float start = bias != nullptr ? Isa::load(bias + c * Isa::LANES) : Isa::broadcast(0.0f);
        V2E_UNROLL
        for (size_t r = 0; r < R; ++r)
            Isa::store(target + r * OUTPUT_STRIDE + c * Isa::LANES, start);
    }
}

struct PanelBytes {
    uint8_t bytes[PANEL];
};

// The zero points of a group of a symmetric matrix.
constexpr PanelBytes equal_bytes(uint8_t value) {
    PanelBytes result{};
    for (uint8_t &byte : result.bytes)
        byte = value;
    return result;
}

template <uint8_t VALUE>
inline constexpr PanelBytes EQUAL_BYTES = equal_bytes(VALUE);

// Puts the zero point's share in front of the low plane's products.
template <class Isa, bool TWO_PLANES>
inline void add_share(typename Isa::Int &product, typename Isa::Int share) {
    product = TWO_PLANES ? Isa::add_int(Isa::shift_left_7(product), share) : share;
}

// products (R, C * LANES): sum over one group of (weight - zero) * activation.
template <class Isa, Source S, bool TWO_PLANES, size_t R, size_t C>
inline void integer_products(const IntegerPanel &panel, const RowTile &tile, size_t group, size_t column,
                             const uint8_t *weight, typename Isa::Int (&products)[R][C]) {
    using Int = typename Isa::Int;
    const size_t offset = group * panel.group_size * R;
    if constexpr (TWO_PLANES) {
        V2E_UNROLL
        for (size_t r = 0; r < R; ++r)
            V2E_UNROLL
        for (size_t c = 0; c < C; ++c)
            products[r][c] = Isa::set_int(0);
        Isa::template dot<S>(products, weight, tile.high + offset, panel.group_size);
    }
    // The zero point's share, -zero * sum(a).
    const int32_t *sums = tile.sums + group * R;
    const uint8_t *zeros =
        panel.zeros == nullptr ? EQUAL_BYTES<default_zero<Isa>(S)>.bytes : panel.zeros + group * PANEL;
    V2E_UNROLL
    for (size_t c = 0; c < C; ++c) {
        const Int zero = Isa::load_bytes(zeros + column + c * Isa::LANES);
        V2E_UNROLL
        for (size_t r = 0; r < R; ++r)
            add_share<Isa, TWO_PLANES>(products[r][c], Isa::template multiply_byte<TWO_PLANES>(zero, -sums[r]));
    }
    Isa::template dot<S>(products, weight, tile.low + offset, panel.group_size);
}

// R input rows times 64 weight rows over the groups [first_group, last_group); weight: of first_group. A group of
// columns passes whole, so that its weights stream by once.
template <class Isa, Source S, bool TWO_PLANES, int R>
V2E_NOINLINE void integer_tile(const IntegerPanel &panel, const RowTile &tile, const PanelOutput &output,
                               size_t first_group, size_t last_group, const uint8_t *weight) {
    using Int = typename Isa::Int;
    using Float = typename Isa::Float;
    constexpr size_t C = Isa::template vectors<R>(), LANES = Isa::LANES;
    float *first = output.values + tile.row * OUTPUT_STRIDE;
    if (first_group == 0)
        start_sums<Isa, R, PANEL / LANES>(first, output.bias);
    for (size_t group = first_group; group < last_group; ++group) {
        for (size_t column = 0; column < PANEL; column += C * LANES) {
            float *target = first + column;
            Int products[R][C];
            integer_products<Isa, S, TWO_PLANES>(panel, tile, group, column, weight + column * 4, products);
            V2E_FORGET_MEMORY;
            const uint16_t *weight_scales = panel.scales + group * PANEL + column;
            Float scales[C];
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c)
                scales[c] = Isa::load_half(weight_scales + c * LANES);
            // The sums stay in the output, which is in the cache: the products need all the registers.
            V2E_UNROLL
            for (size_t r = 0; r < R; ++r) {
                const Float row_scale = Isa::broadcast(tile.scales[group * R + r]);
                V2E_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    float *sum = target + r * OUTPUT_STRIDE + c * LANES;
                    const Float scale = Isa::multiply(scales[c], row_scale);
                    Isa::store(sum, Isa::fma(Isa::to_float(products[r][c]), scale, Isa::load(sum)));
                }
            }
        }
        weight += panel_bytes(S, panel.group_size);
    }
}

// A tile of `rows` rows, R at most.
template <class Isa, Source S, bool TWO_PLANES, int R>
void integer_tile_of(size_t rows, const IntegerPanel &panel, const RowTile &tile, const PanelOutput &output,
                     size_t first_group, size_t last_group, const uint8_t *weight) {
    if constexpr (R > 0) {
        if (rows == R)
            integer_tile<Isa, S, TWO_PLANES, R>(panel, tile, output, first_group, last_group, weight);
        else
            integer_tile_of<Isa, S, TWO_PLANES, R - 1>(rows, panel, tile, output, first_group, last_group, weight);
    }
}

// Memory that will be read soon.
struct Ahead {
    const uint8_t *bytes;
    size_t size;
};

template <class Isa, Source S, bool TWO_PLANES>
void integer_rows(const IntegerPanel &panel, const IntegerRows &rows, const PanelOutput &output, size_t first_group,
                  size_t last_group, const uint8_t *weight, const Ahead &ahead) {
    const size_t groups = panel.columns / panel.group_size, first_row = rows.tiles.first_row(rows.first_tile);
    const size_t share = (ahead.size / (rows.last_tile - rows.first_tile) + 64) / 64 * 64;
    for (size_t index = rows.first_tile, fetched = 0; index < rows.last_tile; ++index) {
        for (const size_t end = fetched + share; fetched < end && fetched < ahead.size; fetched += 64)
            Isa::prefetch_far(ahead.bytes + fetched);
        const size_t row = rows.tiles.first_row(index), offset = row * panel.columns;
        const RowTile tile{TWO_PLANES ? rows.high + offset : nullptr, rows.low + offset, rows.scales + row * groups,
                           rows.sums + row * groups, row - first_row};
        integer_tile_of<Isa, S, TWO_PLANES, Isa::ROWS>(rows.tiles.rows(index), panel, tile, output, first_group,
                                                       last_group, weight);
    }
}

// Two columns of quads a step: byte (b, r, j) holds column 8b + j of row r below and column 8b + 4 + j above.
template <class Isa, Source S>
void unpack(const uint8_t *packed, size_t columns, uint8_t *bytes) {
    using Bytes = typename Isa::Bytes;
    constexpr size_t STEP = PANEL * 4;
    for (size_t k = 0; k < columns; k += 8, packed += STEP, bytes += 2 * STEP)
        for (size_t i = 0; i < STEP; i += sizeof(Bytes)) {
            Bytes lower, upper;
            Isa::template split<S, false>(packed + i, lower, upper);
            std::memcpy(bytes + i, &lower, sizeof lower);
            std::memcpy(bytes + STEP + i, &upper, sizeof upper);
        }
}

// Few input rows: the weights stream by. A single tile takes a panel in one call; for more, a group of columns stays in
// the first-level cache while they pass.
template <class Isa, Source S, bool TWO_PLANES>
void stream_panels(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output) {
    const size_t groups = panels.columns / panels.group_size;
    const size_t step = rows.last_tile - rows.first_tile == 1 ? groups : 1;
    for (size_t index = 0; index < panels.panels; ++index) {
        const IntegerPanel panel = panel_of(panels, S, index);
        for (size_t group = 0; group < groups; group += step)
            integer_rows<Isa, S, TWO_PLANES>(panel, rows, output_of(output, index), group, group + step,
                                             panel.weight + panel_bytes(S, group * panel.group_size), {});
    }
}

// Many input rows: a block of columns of one panel stays in the first-level cache while all rows pass, and the same
// columns of the rows stay in the second-level cache while the panels pass. The weights of the next block are fetched
// in the meantime.
template <class Isa, Source S, bool TWO_PLANES>
void block_panels(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output) {
    alignas(64) uint8_t bytes[INTEGER_BLOCK * PANEL];
    const size_t groups = panels.columns / panels.group_size, step = INTEGER_BLOCK / panels.group_size;
    for (size_t group = 0; group < groups && !stops(rows.stop); group += step) {
        const size_t last = group + step < groups ? group + step : groups;
        const size_t block = panel_bytes(S, (last - group) * panels.group_size);
        for (size_t index = 0; index < panels.panels; ++index) {
            const IntegerPanel panel = panel_of(panels, S, index);
            const PanelOutput target = output_of(output, index);
            const uint8_t *weight = panel.weight + panel_bytes(S, group * panel.group_size);
            const bool last_panel = index + 1 == panels.panels;
            const Ahead ahead = last_panel && last == groups ? Ahead{}
                                : last_panel ? Ahead{panels.weight + panel_bytes(S, last * panel.group_size), block}
                                             : Ahead{weight + panel_bytes(S, panel.columns), block};
            if constexpr (is_packed(S)) {
                unpack<Isa, S>(weight, (last - group) * panel.group_size, bytes);
                integer_rows<Isa, unpacked(S), TWO_PLANES>(panel, rows, target, group, last, bytes, ahead);
            } else {
                integer_rows<Isa, S, TWO_PLANES>(panel, rows, target, group, last, weight, ahead);
            }
        }
    }
}

template <class Isa, Source S, bool TWO_PLANES>
void multiply_planes(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output) {
    const size_t tiles = rows.last_tile - rows.first_tile;
    if constexpr (S != Source::nf4_packed || Isa::TABLES) {
        if (tiles == 1 && rows.tiles.rows(rows.first_tile) == 1)
            return stream_panels<typename Isa::OneRow, S, TWO_PLANES>(panels, rows, output);
        if (tiles <= (is_packed(S) ? Isa::STREAMED_TILES : 1))
            return stream_panels<Isa, S, TWO_PLANES>(panels, rows, output);
    }
    block_panels<Isa, S, TWO_PLANES>(panels, rows, output);
}

template <class Isa, Source S>
void multiply_source(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output) {
    if (rows.high != nullptr)
        multiply_planes<Isa, S, true>(panels, rows, output);
    else
        multiply_planes<Isa, S, false>(panels, rows, output);
}

template <class Isa>
void multiply_integer(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &output) {
    if (panels.precision == Precision::int8)
        multiply_source<Isa, Source::int8>(panels, rows, output);
    else if (panels.code == Code::nf4)
        multiply_source<Isa, Source::nf4_packed>(panels, rows, output);
    else
        multiply_source<Isa, Source::int4_packed>(panels, rows, output);
}

template <class Isa>
typename Isa::Float load_weight(const float *weight) {
    return Isa::load(weight);
}

template <class Isa>
typename Isa::Float load_weight(const uint16_t *weight) {
    return Isa::load_half(weight);
}

// R input rows times 64 weight rows over the columns [first, last): one chain of FMAs an output.
template <class Isa, class Weight, int R>
void float_tile(const Weight *weight, const FloatRows &rows, const PanelOutput &output, size_t row, size_t first,
                size_t last) {
    using Float = typename Isa::Float;
    constexpr size_t C = Isa::template vectors<R>();
    constexpr size_t LANES = Isa::LANES;
    const float *input = rows.values + row * rows.stride;
    for (size_t column = 0; column < PANEL; column += C * LANES) {
        Float totals[R][C];
        float *target = output.values + row * OUTPUT_STRIDE + column;
        if (first == 0)
            start_sums<Isa, R, C>(target, output.bias == nullptr ? nullptr : output.bias + column);
        for (size_t r = 0; r < R; ++r)
            for (size_t c = 0; c < C; ++c)
                totals[r][c] = Isa::load(target + r * OUTPUT_STRIDE + c * LANES);
        for (size_t k = first; k < last; ++k) {
            const Weight *w = weight + k * PANEL + column;
            Float weights[C];
            for (size_t c = 0; c < C; ++c)
                weights[c] = load_weight<Isa>(w + c * LANES);
            for (size_t r = 0; r < R; ++r) {
                const Float value = Isa::broadcast(input[r * rows.stride + k]);
                for (size_t c = 0; c < C; ++c)
                    totals[r][c] = Isa::fma(weights[c], value, totals[r][c]);
            }
        }
        for (size_t r = 0; r < R; ++r)
            for (size_t c = 0; c < C; ++c)
                Isa::store(target + r * OUTPUT_STRIDE + c * LANES, totals[r][c]);
    }
}

template <class Isa, class Weight, int R>
void float_rest(const Weight *weight, const FloatRows &rows, const PanelOutput &output, size_t row, size_t first,
                size_t last) {
    if constexpr (R > 0) {
        if (rows.count - row == R)
            float_tile<Isa, Weight, R>(weight, rows, output, row, first, last);
        else
            float_rest<Isa, Weight, R - 1>(weight, rows, output, row, first, last);
    }
}

template <class Isa, class Weight>
void multiply_weights(const Weight *weight, size_t columns, const FloatRows &rows, const PanelOutput &output) {
    for (size_t first = 0; first < columns && !stops(rows.stop); first += FLOAT_BLOCK) {
        const size_t last = first + FLOAT_BLOCK < columns ? first + FLOAT_BLOCK : columns;
        size_t row = 0;
        for (; row + Isa::ROWS <= rows.count; row += Isa::ROWS)
            float_tile<Isa, Weight, Isa::ROWS>(weight, rows, output, row, first, last);
        float_rest<Isa, Weight, Isa::ROWS - 1>(weight, rows, output, row, first, last);
    }
}

template <class Isa>
void multiply_float(const FloatPanel &panel, const FloatRows &rows, const PanelOutput &output) {
    if (panel.precision == Precision::fp16)
        multiply_weights<Isa>(static_cast<const uint16_t *>(panel.weight), panel.columns, rows, output);
    else
        multiply_weights<Isa>(static_cast<const float *>(panel.weight), panel.columns, rows, output);
}

template <class Isa>
constexpr LinearKernels make_linear_kernels() {
    return {Isa::ROWS, quantize_tile<Isa>, multiply_integer<Isa>, multiply_float<Isa>};
}

} // namespace
} // namespace v2e
