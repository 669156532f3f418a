#if defined(__aarch64__) || defined(_M_ARM64)

#include "kernels/words_neon.hpp"

#include "kernels/vision_impl.hpp"

const v2e::VisionKernels *v2e::vision_kernels_neon() {
    static constexpr VisionKernels kernels{neon::arithmetic<neon::ByteRows>(),
                                           neon::arithmetic<neon::FloatRows>(),
                                           false,
                                           neon::layer_norm,
                                           neon::soften_row,
                                           neon::sum_below};
    return &kernels;
}

#else

#include "kernels/vision_kernels.hpp"

const v2e::VisionKernels *v2e::vision_kernels_neon() {
    return nullptr;
}

#endif
