#if defined(__x86_64__) || defined(_M_X64)

#include "kernels/simd_avx2.hpp"

#include "kernels/elementwise_impl.hpp"

#endif
