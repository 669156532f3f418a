#include "cpu/simd/simd_portable.hpp"

#include "cpu/attention/attention_impl.hpp"
