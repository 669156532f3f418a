#include "cpu/simd/simd_portable.hpp"

#include "cpu/rounding/rounding_impl.hpp"
