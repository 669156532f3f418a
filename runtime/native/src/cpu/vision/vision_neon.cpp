#if defined(__aarch64__) || defined(_M_ARM64)

#include "cpu/simd/words_neon.hpp"

#include "cpu/vision/vision_impl.hpp"

const v2e::VisionKernels *v2e::vision_kernels_neon() {
    static constexpr VisionKernels kernels{neon::arithmetic<neon::ByteRows>(),
                                           neon::arithmetic<neon::WidenedRows>(),
                                           neon::arithmetic<neon::FloatRows>(),
                                           false,
                                           neon::layer_norm,
                                           neon::soften_row,
                                           neon::sum_below};
    return &kernels;
}

#else

#include "cpu/vision/vision_kernels.hpp"

const v2e::VisionKernels *v2e::vision_kernels_neon() {
    return nullptr;
}

#endif
