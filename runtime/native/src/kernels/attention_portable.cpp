#include "kernels/simd_portable.hpp"

#include "kernels/attention_impl.hpp"
