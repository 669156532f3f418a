#include "picture/stitch.hpp"

#include <algorithm>

namespace v2e {
namespace {

struct Grid {
    size_t columns;
    size_t rows;

    size_t count() const { return columns * rows; }
};

// Adaptive average pooling of a grid of tokens: output i averages inputs floor(i * n / m) to ceil((i + 1) * n / m).
// token_at(row, column) points to the (channels) values of one input token; tokens: (to.rows, to.columns, channels).
// Equal grids are copied. Returns the end of what was written.
template <class TokenAt>
float *pool(Grid from, Grid to, size_t channels, const TokenAt &token_at, float *tokens) {
    for (size_t row = 0; row < to.rows; ++row) {
        const size_t first_row = row * from.rows / to.rows;
        const size_t end_row = ((row + 1) * from.rows + to.rows - 1) / to.rows;
        for (size_t column = 0; column < to.columns; ++column, tokens += channels) {
            const size_t first_column = column * from.columns / to.columns;
            const size_t end_column = ((column + 1) * from.columns + to.columns - 1) / to.columns;
            std::fill_n(tokens, channels, 0.0f);
            for (size_t source_row = first_row; source_row < end_row; ++source_row) {
                for (size_t source_column = first_column; source_column < end_column; ++source_column) {
                    const float *token = token_at(source_row, source_column);
                    for (size_t channel = 0; channel < channels; ++channel)
                        tokens[channel] += token[channel];
                }
            }
            const auto averaged_rows = static_cast<float>(end_row - first_row);
            const auto averaged_columns = static_cast<float>(end_column - first_column);
            for (size_t channel = 0; channel < channels; ++channel)
                tokens[channel] = tokens[channel] / averaged_rows / averaged_columns;
        }
    }
    return tokens;
}

} // namespace

void stitch_tiles(const float *tile_tokens, const v2e_geometry &geometry, const GeometryOptions &options,
                  size_t channels, float *tokens) {
    const size_t side = options.tokens_per_side;
    const size_t tile_values = side * side * channels;
    const Grid pooled{geometry.pooled_columns, geometry.pooled_rows};
    if (!options.unpad) {
        for (size_t tile = 0; tile < geometry.tile_count; ++tile) {
            const float *first = tile_tokens + tile * tile_values;
            tokens = pool(
                {side, side}, pooled, channels,
                [&](size_t row, size_t column) { return first + (row * side + column) * channels; }, tokens);
        }
        return;
    }
    tokens = std::copy_n(tile_tokens, tile_values, tokens);
    const float *tiles = tile_tokens + tile_values; // the grid's, row-major
    const auto token_at = [&](size_t kept_row, size_t kept_column) {
        const size_t row = geometry.kept_y + kept_row;
        const size_t column = geometry.kept_x + kept_column;
        const size_t tile = row / side * geometry.grid_columns + column / side;
        return tiles + tile * tile_values + (row % side * side + column % side) * channels;
    };
    pool({geometry.kept_columns, geometry.kept_rows}, pooled, channels, token_at, tokens);
}

} // namespace v2e
