#include "picture/resample.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

namespace v2e {
namespace {

constexpr int PRECISION_BITS = 32 - 8 - 2; // bits of a weight; eight for the pixel and two for overshoot are left
constexpr int32_t ONE_HALF = 1 << (PRECISION_BITS - 1);
constexpr double CUBIC_SUPPORT = 2.0;
constexpr size_t CHANNELS = 3;
constexpr size_t KERNEL_PRODUCTS = 8; // multiplications that one weight takes

// Keys' cubic convolution kernel with A = -0.5 ("Cubic convolution interpolation for digital image processing", 1981).
double cubic(double x) {
    constexpr double A = -0.5;
    x = std::fabs(x);
    if (x < 1.0)
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * A;
    return 0.0;
}

// For every output position along one axis: which input positions it reads, and their weights in fixed point.
struct Axis {
    struct Window {
        size_t first;
        size_t count;
    };
    std::vector<Window> windows;  // (new_side)
    std::vector<int32_t> weights; // (new_side, stride)
    size_t stride;

    const int32_t *weights_of(size_t position) const { return weights.data() + position * stride; }
};

int32_t to_fixed_point(double weight) {
    const double scaled = weight * (1 << PRECISION_BITS);
    return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

// The order of every operation is Pillow's: one rounding elsewhere changes pixels.
Axis make_axis(uint32_t side, uint32_t new_side, PixelMeter &meter) {
    const double scale = static_cast<double>(side) / new_side;
    const double filter_scale = std::max(scale, 1.0);
    const double support = CUBIC_SUPPORT * filter_scale;
    const double inverse_filter_scale = 1.0 / filter_scale;

    Axis axis;
    // No window is longer than 2 * ceil(support) + 1, nor than the side.
    axis.stride = std::min(2 * static_cast<size_t>(std::ceil(support)) + 1, static_cast<size_t>(side));
    axis.windows.resize(new_side);
    axis.weights.assign(new_side * axis.stride, 0);
    std::vector<double> exact(axis.stride);
    for (size_t position = 0; position < new_side; ++position) {
        const double center = (static_cast<double>(position) + 0.5) * scale;
        const auto first = static_cast<int64_t>(std::max(center - support + 0.5, 0.0));
        const int64_t end = std::min(static_cast<int64_t>(center + support + 0.5), static_cast<int64_t>(side));
        const auto count = static_cast<size_t>(end - first);
        meter.add(count * KERNEL_PRODUCTS);
        double sum = 0.0;
        for (size_t tap = 0; tap < count; ++tap) {
            const double input = static_cast<double>(tap + static_cast<size_t>(first));
            exact[tap] = cubic((input - center + 0.5) * inverse_filter_scale);
            sum += exact[tap];
        }
        for (size_t tap = 0; tap < count; ++tap) {
            const double normalised = sum != 0.0 ? exact[tap] / sum : exact[tap];
            axis.weights[position * axis.stride + tap] = to_fixed_point(normalised);
        }
        axis.windows[position] = {static_cast<size_t>(first), count};
    }
    return axis;
}

uint8_t to_pixel(int32_t accumulated) {
    return static_cast<uint8_t>(std::clamp(accumulated >> PRECISION_BITS, 0, 255));
}

// row: (side, 3); result: (new_side, 3).
void resample_row(const Axis &axis, const uint8_t *row, uint8_t *result, PixelMeter &meter) {
    const size_t products = axis.stride * CHANNELS, piece = PixelMeter::pieces(products);
    for (size_t position = 0; position < axis.windows.size(); ++position) {
        if (position % piece == 0)
            meter.add(std::min(piece, axis.windows.size() - position) * products);
        const auto [first, count] = axis.windows[position];
        const uint8_t *pixel = row + first * CHANNELS;
        const int32_t *weights = axis.weights_of(position);
        int32_t red = ONE_HALF;
        int32_t green = ONE_HALF;
        int32_t blue = ONE_HALF;
        for (size_t tap = 0; tap < count; ++tap, pixel += CHANNELS) {
            red += pixel[0] * weights[tap];
            green += pixel[1] * weights[tap];
            blue += pixel[2] * weights[tap];
        }
        result[0] = to_pixel(red);
        result[1] = to_pixel(green);
        result[2] = to_pixel(blue);
        result += CHANNELS;
    }
}

// Blends the input rows of one output row. row_at(row) points to (length) bytes; result: (length).
template <class RowAt>
void blend_rows(const Axis &axis, size_t position, const RowAt &row_at, size_t length, uint8_t *result,
                PixelMeter &meter) {
    constexpr size_t BLOCK = 1024; // the sums stay in the first-level cache
    std::array<int32_t, BLOCK> sums;
    const auto [first, count] = axis.windows[position];
    const int32_t *weights = axis.weights_of(position);
    for (size_t start = 0; start < length; start += BLOCK) {
        const size_t size = std::min(BLOCK, length - start);
        meter.add(size * count);
        std::fill_n(sums.begin(), size, ONE_HALF);
        for (size_t tap = 0; tap < count; ++tap) {
            const uint8_t *row = row_at(first + tap) + start;
            const int32_t weight = weights[tap];
            for (size_t index = 0; index < size; ++index)
                sums[index] += row[index] * weight;
        }
        for (size_t index = 0; index < size; ++index)
            result[start + index] = to_pixel(sums[index]);
    }
}

// Each pass rounds to 8 bits, so their order shows. This is Pillow's since version 13; it was always horizontal before.
bool is_vertical_first(Size size, Size new_size) {
    const int64_t lost_rows = static_cast<int64_t>(size.height) - new_size.height;
    const int64_t lost_columns = static_cast<int64_t>(size.width) - new_size.width;
    return lost_rows > 0 && lost_rows > 2 * lost_columns;
}

void resample_horizontally(const uint8_t *source, Size size, uint8_t *destination, Size new_size, PixelMeter &meter) {
    const Axis axis = make_axis(size.width, new_size.width, meter);
    for (size_t y = 0; y < size.height; ++y)
        resample_row(axis, source + y * size.width * CHANNELS, destination + y * new_size.width * CHANNELS, meter);
}

void resample_vertically(const uint8_t *source, Size size, uint8_t *destination, Size new_size, PixelMeter &meter) {
    const size_t pitch = size.width * CHANNELS;
    const Axis axis = make_axis(size.height, new_size.height, meter);
    const auto row_at = [&](size_t row) { return source + row * pitch; };
    for (size_t y = 0; y < new_size.height; ++y)
        blend_rows(axis, y, row_at, pitch, destination + y * pitch, meter);
}

void resample_vertically_first(const uint8_t *source, Size size, uint8_t *destination, Size new_size,
                               PixelMeter &meter) {
    const size_t source_pitch = size.width * CHANNELS;
    const Axis vertical = make_axis(size.height, new_size.height, meter);
    const Axis horizontal = make_axis(size.width, new_size.width, meter);
    std::vector<uint8_t> blended(source_pitch);
    const auto row_at = [&](size_t row) { return source + row * source_pitch; };
    for (size_t y = 0; y < new_size.height; ++y) {
        blend_rows(vertical, y, row_at, source_pitch, blended.data(), meter);
        resample_row(horizontal, blended.data(), destination + y * new_size.width * CHANNELS, meter);
    }
}

void resample_horizontally_first(const uint8_t *source, Size size, uint8_t *destination, Size new_size,
                                 PixelMeter &meter) {
    const size_t pitch = new_size.width * CHANNELS;
    const Axis vertical = make_axis(size.height, new_size.height, meter);
    const Axis horizontal = make_axis(size.width, new_size.width, meter);
    // The horizontally resampled rows that the current output row reads. Its window only moves on.
    std::vector<uint8_t> ring(vertical.stride * pitch);
    const auto row_at = [&](size_t row) { return ring.data() + row % vertical.stride * pitch; };
    size_t next = 0; // rows before it are in the ring or no longer read
    for (size_t y = 0; y < new_size.height; ++y) {
        const auto [first, count] = vertical.windows[y];
        for (next = std::max(next, first); next < first + count; ++next)
            resample_row(horizontal, source + next * size.width * CHANNELS, row_at(next), meter);
        blend_rows(vertical, y, row_at, pitch, destination + y * pitch, meter);
    }
}

} // namespace

void resize(const uint8_t *source, Size size, uint8_t *destination, Size new_size, PixelMeter &meter) {
    if (size == new_size)
        std::memcpy(destination, source, static_cast<size_t>(size.width) * size.height * CHANNELS);
    else if (size.height == new_size.height)
        resample_horizontally(source, size, destination, new_size, meter);
    else if (size.width == new_size.width)
        resample_vertically(source, size, destination, new_size, meter);
    else if (is_vertical_first(size, new_size))
        resample_vertically_first(source, size, destination, new_size, meter);
    else
        resample_horizontally_first(source, size, destination, new_size, meter);
}

} // namespace v2e
