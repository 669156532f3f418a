#include "cpu/simd/simd_portable.hpp"

#include "cpu/elementwise/elementwise_impl.hpp"
