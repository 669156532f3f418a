#if defined(__aarch64__) || defined(_M_ARM64)

#include "cpu/simd/simd_neon.hpp"

#include "cpu/rounding/rounding_impl.hpp"

#endif
