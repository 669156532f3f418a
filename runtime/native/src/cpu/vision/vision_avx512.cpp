#if defined(__x86_64__) || defined(_M_X64)

#include "cpu/simd/words_avx512.hpp"

#include "cpu/isa.hpp"
#include "cpu/vision/vision_impl.hpp"

const v2e::VisionKernels *v2e::vision_kernels_avx512() {
    static constexpr VisionKernels with_bf16{avx512::arithmetic<avx512::ByteRows>(),
                                             avx512::arithmetic<avx512::Bf16Rows>(),
                                             avx512::arithmetic<avx512::FloatRows>(),
                                             true,
                                             avx512::layer_norm,
                                             avx512::soften_row,
                                             avx512::sum_below};
    static constexpr VisionKernels without{avx512::arithmetic<avx512::ByteRows>(),
                                           avx512::arithmetic<avx512::WidenedRows>(),
                                           avx512::arithmetic<avx512::FloatRows>(),
                                           false,
                                           avx512::layer_norm,
                                           avx512::soften_row,
                                           avx512::sum_below};
    return has_avx512_bf16() ? &with_bf16 : &without;
}

#else

#include "cpu/vision/vision_kernels.hpp"

const v2e::VisionKernels *v2e::vision_kernels_avx512() {
    return nullptr;
}

#endif
