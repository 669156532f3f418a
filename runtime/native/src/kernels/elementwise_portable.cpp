#include "kernels/simd_portable.hpp"

#include "kernels/elementwise_impl.hpp"
