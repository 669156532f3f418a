// Matrix products with AVX2 and the int8 dot product of AVX-VNNI.
#include "cpu/linear/linear_kernels.hpp"

#if defined(V2E_AVXVNNI) // by CMake, where the compiler has it

#include "cpu/linear/linear_vectors_avx2.hpp"
#include "cpu/linear/linear_vnni.hpp"
#include "cpu/simd/vpdpbusd_avxvnni.hpp"

namespace v2e {
namespace {

struct AvxVnniVectors : Avx2Vectors {
    using OneRow = AvxVnniVectors;
    static constexpr int ROWS = 6; // 6 x 2 sums, 2 weights and one activation fit into 16 registers
    static constexpr size_t KEPT_ROWS = 4;

    static Int dot4(Int sums, Int weights, Int activations) { return vpdpbusd(sums, weights, activations); }
};

} // namespace

const LinearKernels *linear_kernels_avxvnni() {
    static constexpr LinearKernels kernels = make_linear_kernels<Vnni<AvxVnniVectors>>();
    return &kernels;
}

} // namespace v2e

#else

const v2e::LinearKernels *v2e::linear_kernels_avxvnni() {
    return nullptr;
}

#endif
