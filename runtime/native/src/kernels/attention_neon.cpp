#if defined(__aarch64__) || defined(_M_ARM64)

#include "kernels/simd_neon.hpp"

#include "kernels/attention_impl.hpp"

#endif
