// The decoder's row by row kernels, once for every instruction set: include a simd_*.hpp header first.

#include "kernels/attention.hpp"
#include "kernels/elementwise.hpp"

namespace v2e::V2E_SIMD {

namespace {

constexpr size_t LANES = 16;

float square_sum(const float *values, size_t size) {
    Vec even = splat(0.0f), odd = splat(0.0f);
    size_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        const Vec first = load(values + i), second = load(values + i + LANES);
        even = fma(first, first, even);
        odd = fma(second, second, odd);
    }
    if (i < size) {
        const Vec last = load(values + i);
        even = fma(last, last, even);
    }
    return sum_of(even + odd);
}

bool scale(const float *values, float factor, const float *weight, float *output, size_t size) {
    Vec check = splat(0.0f); // NaN as soon as a result is not finite
    for (size_t i = 0; i < size; i += LANES) {
        const Vec result = load(values + i) * splat(factor) * load(weight + i);
        store(output + i, result);
        check = fma(result, splat(0.0f), check);
    }
    return sum_of(check) == 0.0f;
}

void add(float *target, const float *values, size_t size) {
    for (size_t i = 0; i < size; i += LANES)
        store(target + i, load(target + i) + load(values + i));
}

bool swiglu(float *gate, const float *up, size_t size) {
    const Vec one = splat(1.0f);
    Vec check = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec x = load(gate + i);
        const Vec result = x / (one + exponential(splat(0.0f) - x)) * load(up + i);
        store(gate + i, result);
        check = fma(result, splat(0.0f), check);
    }
    return sum_of(check) == 0.0f;
}

void rotate(float *heads, size_t count, size_t head_size, const float *cosine, const float *sine) {
    const size_t half = head_size / 2;
    for (float *head = heads; head != heads + count * head_size; head += head_size) {
        for (size_t i = 0; i < half; ++i) {
            const float first = head[i], second = head[i + half];
            head[i] = first * cosine[i] - second * sine[i];
            head[i + half] = second * cosine[i] + first * sine[i];
        }
    }
}

void store_key(const float *key, size_t head_size, std::byte *column, bool half) {
    if (!half) {
        auto *lane = reinterpret_cast<float *>(column);
        for (size_t channel = 0; channel < head_size; ++channel)
            lane[channel * KEY_LANES] = key[channel];
        return;
    }
    auto *lane = reinterpret_cast<uint16_t *>(column);
    for (size_t channel = 0; channel < head_size; channel += LANES) {
        uint16_t halves[LANES];
        store(halves, load(key + channel));
        for (size_t i = 0; i < LANES; ++i)
            lane[(channel + i) * KEY_LANES] = halves[i];
    }
}

void store_value(const float *value, size_t head_size, std::byte *target, bool half) {
    for (size_t i = 0; i < head_size; i += LANES) {
        if (half)
            store(reinterpret_cast<uint16_t *>(target) + i, load(value + i));
        else
            store(reinterpret_cast<float *>(target) + i, load(value + i));
    }
}

bool is_finite(const float *values, size_t size) {
    Vec check = splat(0.0f);
    size_t i = 0;
    for (; i + LANES <= size; i += LANES)
        check = fma(load(values + i), splat(0.0f), check);
    float rest = sum_of(check);
    for (; i < size; ++i)
        rest += values[i] * 0.0f;
    return rest == 0.0f;
}

} // namespace

constinit const ElementwiseKernels elementwise = {square_sum, scale,     add,         swiglu,
                                                  rotate,     store_key, store_value, is_finite};

} // namespace v2e::V2E_SIMD
