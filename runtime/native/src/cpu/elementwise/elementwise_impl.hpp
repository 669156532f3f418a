// The decoder's row by row kernels, once for every instruction set: include a simd_*.hpp header first.

#include "cpu/attention/attention.hpp"
#include "cpu/elementwise/elementwise.hpp"

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

// Signs of Hadamard's matrix of 16 rows, after Sylvester: -1 to the number of bits that row and column share.
struct HadamardSigns {
    float sign[LANES][LANES];
    constexpr HadamardSigns() : sign() {
        for (size_t row = 0; row < LANES; ++row)
            for (size_t column = 0; column < LANES; ++column) {
                bool odd = false;
                for (size_t shared = row & column; shared != 0; shared &= shared - 1)
                    odd = !odd;
                sign[row][column] = odd ? -1.0f : 1.0f;
            }
    }
};
constexpr HadamardSigns HADAMARD;

// Spreads the heads of a KV cache after Ashkboos et al. (2024), "QuaRot", section 4.
void spread(float *heads, size_t count, size_t head_size) {
    const size_t block = head_size & (~head_size + 1); // the largest power of two that divides it
    float factor = 0.25f;                              // 1 / sqrt(block)
    for (size_t width = LANES; width < block; width *= 2)
        factor *= 0.70710678118654752f;
    for (float *part = heads; part != heads + count * head_size; part += block) {
        for (size_t i = 0; i < block; i += LANES) {
            Vec sum = splat(0.0f);
            for (size_t lane = 0; lane < LANES; ++lane)
                sum = fma(splat(part[i + lane]), load(HADAMARD.sign[lane]), sum);
            store(part + i, sum * splat(factor));
        }
        for (size_t width = LANES; width < block; width *= 2)
            for (size_t i = 0; i < block; i += LANES) {
                if ((i & width) != 0)
                    continue;
                const Vec first = load(part + i), second = load(part + i + width);
                store(part + i, first + second);
                store(part + i + width, first - second);
            }
    }
}

// Rounds to multiples of a step, 1/127 of the largest magnitude, and returns it.
float round_to_steps(const float *values, size_t size, int8_t *target) {
    Vec most = splat(0.0f);
    for (size_t i = 0; i < size; i += LANES) {
        const Vec value = load(values + i);
        most = at_least(most, at_least(value, splat(0.0f) - value));
    }
    const float largest = largest_of(most);
    const bool some = largest > 1e-30f; // 127 / largest is finite
    const Vec steps = splat(some ? 127.0f / largest : 0.0f);
    for (size_t i = 0; i < size; i += LANES)
        store(target + i, nearest(load(values + i) * steps));
    return some ? largest / 127.0f : 0.0f;
}

template <class Element>
void scatter(const Element *key, size_t head_size, std::byte *column) {
    auto *lane = reinterpret_cast<Element *>(column);
    for (size_t channel = 0; channel < head_size; ++channel)
        lane[channel * KEY_LANES] = key[channel];
}

template <class Element>
void convert(const float *values, size_t size, Element *target) {
    for (size_t i = 0; i < size; i += LANES)
        store(target + i, load(values + i));
}

void store_key(const float *key, size_t head_size, KvPrecision precision, std::byte *column, float *step) {
    if (precision == KvPrecision::int8) {
        int8_t rounded[MAX_HEAD_SIZE];
        *step = round_to_steps(key, head_size, rounded);
        scatter(rounded, head_size, column);
    } else if (precision == KvPrecision::fp16) {
        uint16_t halves[MAX_HEAD_SIZE];
        convert(key, head_size, halves);
        scatter(halves, head_size, column);
    } else {
        scatter(key, head_size, column);
    }
}

void store_value(const float *value, size_t head_size, KvPrecision precision, std::byte *target, float *step) {
    if (precision == KvPrecision::int8)
        *step = round_to_steps(value, head_size, reinterpret_cast<int8_t *>(target));
    else if (precision == KvPrecision::fp16)
        convert(value, head_size, reinterpret_cast<uint16_t *>(target));
    else
        convert(value, head_size, reinterpret_cast<float *>(target));
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

constinit const ElementwiseKernels elementwise = {square_sum, scale,     add,         swiglu,   rotate,
                                                  spread,     store_key, store_value, is_finite};

} // namespace v2e::V2E_SIMD
