#if defined(__x86_64__) || defined(_M_X64)

#include "cpu/simd/words_avx2.hpp"

#include "cpu/vision/vision_impl.hpp"

const v2e::VisionKernels *v2e::vision_kernels_avx2() {
    static constexpr VisionKernels kernels{avx2::arithmetic<avx2::ByteRows>(),
                                           avx2::arithmetic<avx2::WidenedRows>(),
                                           avx2::arithmetic<avx2::FloatRows>(),
                                           false,
                                           avx2::layer_norm,
                                           avx2::soften_row,
                                           avx2::sum_below};
    return &kernels;
}

#else

#include "cpu/vision/vision_kernels.hpp"

const v2e::VisionKernels *v2e::vision_kernels_avx2() {
    return nullptr;
}

#endif
