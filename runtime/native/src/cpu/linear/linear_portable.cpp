// Matrix products in plain C++: the fallback of every machine, and the reading version of the others.
#include "base/half.hpp"
#include "cpu/linear/linear_impl.hpp"

namespace v2e {
namespace {

struct Portable {
    using OneRow = Portable;
    static constexpr size_t LANES = 16;
    static constexpr int ROWS = 4;
    static constexpr bool SIGNED_INT8 = false;
    static constexpr bool TABLES = false;
    static constexpr size_t STREAMED_TILES = 1;
    template <int R>
    static constexpr size_t vectors() {
        return 1;
    }

    struct Int {
        int32_t values[LANES];
    };
    struct Float {
        float values[LANES];
    };
    struct Bytes {
        uint8_t values[LANES];
    };

    template <class Result, class Function>
    static Result each(Function &&function) {
        Result result;
        for (size_t i = 0; i < LANES; ++i)
            result.values[i] = function(i);
        return result;
    }

    static Int set_int(int32_t value) {
        return each<Int>([=](size_t) { return value; });
    }
    static Int load_bytes(const uint8_t *bytes) {
        return each<Int>([=](size_t i) { return static_cast<int32_t>(bytes[i]); });
    }
    static Int add_int(const Int &a, const Int &b) {
        return each<Int>([&](size_t i) { return a.values[i] + b.values[i]; });
    }
    static Int subtract_int(const Int &a, const Int &b) {
        return each<Int>([&](size_t i) { return a.values[i] - b.values[i]; });
    }
    template <bool>
    static Int multiply_byte(const Int &bytes, int32_t factor) {
        return each<Int>([&](size_t i) { return bytes.values[i] * factor; });
    }
    static Int max_int(const Int &a, const Int &b) {
        return each<Int>([&](size_t i) { return a.values[i] > b.values[i] ? a.values[i] : b.values[i]; });
    }
    static Int shift_left_7(const Int &a) {
        return each<Int>([&](size_t i) { return a.values[i] * 128; });
    }
    static Int shift_right_7(const Int &a) {
        return each<Int>([&](size_t i) { return a.values[i] >> 7; });
    }
    static int32_t reduce_max(const Int &a) {
        int32_t result = a.values[0];
        for (const int32_t value : a.values)
            result = value > result ? value : result;
        return result;
    }
    static int32_t reduce_add(const Int &a) {
        int32_t result = 0;
        for (const int32_t value : a.values)
            result += value;
        return result;
    }
    static void store_int8(int8_t *target, const Int &a) {
        for (size_t i = 0; i < LANES; ++i)
            target[i] = static_cast<int8_t>(a.values[i]);
    }

    static Float load(const float *source) {
        return each<Float>([=](size_t i) { return source[i]; });
    }
    static Float load_half(const uint16_t *source) {
        return each<Float>([=](size_t i) { return float_from_half(source[i]); });
    }
    static void store(float *target, const Float &a) { std::memcpy(target, a.values, sizeof a.values); }
    static Float broadcast(float value) {
        return each<Float>([=](size_t) { return value; });
    }
    static Float multiply(const Float &a, const Float &b) {
        return each<Float>([&](size_t i) { return a.values[i] * b.values[i]; });
    }
    // Two roundings: std::fma is a function call on processors without the instruction.
    static Float fma(const Float &a, const Float &b, const Float &c) {
        return each<Float>([&](size_t i) { return a.values[i] * b.values[i] + c.values[i]; });
    }
    static Float to_float(const Int &a) {
        return each<Float>([&](size_t i) { return static_cast<float>(a.values[i]); });
    }
    static Int magnitude_bits(const Float &a) {
        return each<Int>([&](size_t i) { return static_cast<int32_t>(bits_from_float(a.values[i]) & 0x7fffffffu); });
    }
    // Below 2^22 in magnitude. Adding 1.5 * 2^23 leaves the integer, rounded to nearest even, in the low bits.
    static Int round(const Float &a) {
        constexpr float SHIFT = 12582912.0f;
        return each<Int>([&](size_t i) {
            return static_cast<int32_t>(bits_from_float(a.values[i] + SHIFT)) -
                   static_cast<int32_t>(bits_from_float(SHIFT));
        });
    }
    static void prefetch_far(const void *) {}

    template <Source S, bool SIGNED>
    static void split(const uint8_t *packed, Bytes &lower, Bytes &upper) {
        for (size_t i = 0; i < LANES; ++i) {
            const uint8_t low = packed[i] & 15, high = packed[i] >> 4;
            lower.values[i] = S == Source::nf4_packed ? NF4_TABLE<SIGNED>.bytes[low] : low;
            upper.values[i] = S == Source::nf4_packed ? NF4_TABLE<SIGNED>.bytes[high] : high;
        }
    }

    // sums (R, LANES) += weights (columns, LANES) * activations (R, columns)
    template <Source S, size_t R>
    static void dot(Int (&sums)[R][1], const uint8_t *weight, const int8_t *activations, size_t columns) {
        constexpr size_t STEP = PANEL * 4;
        for (size_t k = 0; k < columns; k += 4) {
            const bool upper = S == Source::int4_packed && k % 8 != 0;
            for (size_t r = 0; r < R; ++r) {
                const int8_t *a = activations + k * R + r * 4;
                const int32_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
                for (size_t i = 0; i < LANES; ++i) {
                    const uint8_t *w = weight + i * 4;
                    int32_t w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
                    if constexpr (S == Source::int4_packed) {
                        const int shift = upper ? 4 : 0;
                        w0 = w0 >> shift & 15;
                        w1 = w1 >> shift & 15;
                        w2 = w2 >> shift & 15;
                        w3 = w3 >> shift & 15;
                    }
                    sums[r][0].values[i] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3;
                }
            }
            if (S != Source::int4_packed || upper)
                weight += STEP;
        }
    }
};

} // namespace

const LinearKernels *linear_kernels_portable() {
    static constexpr LinearKernels kernels = make_linear_kernels<Portable>();
    return &kernels;
}

} // namespace v2e
