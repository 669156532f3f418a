// Inner products with an instruction that adds 4 products of unsigned weights and signed activations to each lane
// (vpdpbusd). Included by the files that have it.
#pragma once

#include "cpu/linear/linear_impl.hpp"

namespace v2e {
namespace {

// Vectors: the elementary operations of an Isa, and
//   dot4(sums, w, a)      sums + 4 products in each lane
//   KEPT_ROWS             most input rows whose activations stay in registers from one vector of weights to the next
template <class Vectors>
struct Vnni : Vectors {
    using OneRow = Vnni<typename Vectors::OneRow>;
    static constexpr bool SIGNED_INT8 = false;
    using typename Vectors::Bytes;
    using typename Vectors::Int;

    template <Source S, size_t R, size_t C>
    static void dot(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations, size_t columns) {
        if constexpr (is_packed(S))
            dot_packed<S>(sums, weight, activations, columns);
        else
            dot_bytes(sums, weight, activations, columns);
    }

    template <size_t R, size_t C>
    static void dot_bytes(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations, size_t columns) {
        size_t k = 0;
        do { // a group is never empty
            Int weights[C];
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c)
                weights[c] = Vectors::load_weights(weight + c * sizeof(Int));
            V2E_UNROLL
            for (size_t r = 0; r < R; ++r) {
                const Int quad = Vectors::broadcast_quad(activations + k * R + r * 4);
                V2E_UNROLL
                for (size_t c = 0; c < C; ++c)
                    sums[r][c] = Vectors::dot4(sums[r][c], weights[c], quad);
            }
            k += 4;
            weight += PANEL * 4;
        } while (k < columns);
    }

    template <Source S, size_t R, size_t C>
    static void dot_packed(Int (&sums)[R][C], const uint8_t *weight, const int8_t *activations, size_t columns) {
        size_t k = 0;
        do { // a group is never empty
            V2E_UNROLL
            for (size_t c = 0; c < C; ++c) {
                if constexpr (R > Vectors::KEPT_ROWS)
                    V2E_FORGET_MEMORY;
                Bytes lower, upper;
                Vectors::template split<S, SIGNED_INT8>(weight + c * sizeof(Int), lower, upper);
                V2E_UNROLL
                for (size_t r = 0; r < R; ++r) {
                    const int8_t *a = activations + k * R + r * 4;
                    sums[r][c] = Vectors::dot4(sums[r][c], lower, Vectors::broadcast_quad(a));
                    sums[r][c] = Vectors::dot4(sums[r][c], upper, Vectors::broadcast_quad(a + 4 * R));
                }
            }
            k += 8;
            weight += PANEL * 4;
        } while (k < columns);
    }
};

} // namespace
} // namespace v2e
