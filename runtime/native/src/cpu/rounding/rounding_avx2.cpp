#if defined(__x86_64__) || defined(_M_X64)

#include "cpu/simd/simd_avx2.hpp"

#include "cpu/rounding/rounding_impl.hpp"

#endif
