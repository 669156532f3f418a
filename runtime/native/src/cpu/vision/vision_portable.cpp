#include "cpu/simd/words_portable.hpp"

#include "cpu/vision/vision_impl.hpp"

const v2e::VisionKernels *v2e::vision_kernels_portable() {
    static constexpr VisionKernels kernels{portable::arithmetic<portable::ByteRows>(),
                                           portable::arithmetic<portable::WidenedRows>(),
                                           portable::arithmetic<portable::FloatRows>(),
                                           false,
                                           portable::layer_norm,
                                           portable::soften_row,
                                           portable::sum_below};
    return &kernels;
}
