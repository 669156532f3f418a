// What every instruction set makes of its own Vec in the same way. Included by the simd_*.hpp headers only. Neither
// here nor in the kernels may a function of the standard library's templates be called: the linker could keep a copy of
// it that other machines cannot run.

#include "cpu/simd/unroll.hpp"

namespace v2e::V2E_SIMD {

// `count` values, a multiple of 16, as floats.
template <class Element>
inline void widen(const Element *source, size_t count, float *target) {
    for (size_t i = 0; i < count; i += 16)
        store(target + i, load(source + i));
}

// Lane i of the result is lane i of `value` joined with the others by `join`, as a tree: the order never changes.
template <class Join>
inline float fold(Vec value, Join &&join) {
    float lane[16];
    store(lane, value);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i)
            lane[i] = join(lane[i], lane[i + half]);
    return lane[0];
}

inline float sum_of(Vec value) {
    return fold(value, [](float a, float b) { return a + b; });
}

// NaNs do not count: they come back as NaNs through the exponential.
inline float largest_of(Vec value) {
    return fold(value, [](float a, float b) { return a > b ? a : b; });
}

// e^x to about one unit in the last place; 0 below -87. After the Cephes library's expf: x = n ln 2 + r, a polynomial
// of degree 7 in r, and a shift by n.
inline Vec exponential(Vec x) {
    const Vec bounded = at_most(at_least(x, splat(-87.0f)), splat(88.0f));
    const Vec n = nearest(bounded * splat(1.44269504088896341f));
    Vec r = fma(n, splat(-0.693359375f), bounded);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec y = splat(1.9875691500e-4f);
    y = fma(y, r, splat(1.3981999507e-3f));
    y = fma(y, r, splat(8.3334519073e-3f));
    y = fma(y, r, splat(4.1665795894e-2f));
    y = fma(y, r, splat(1.6666665459e-1f));
    y = fma(y, r, splat(5.0000001201e-1f));
    y = fma(y, r * r, r) + splat(1.0f);
    return zero_below(scale_by_power(y, n), x, -87.0f);
}

} // namespace v2e::V2E_SIMD
