// What tests read out of a KV cache.
#pragma once

#include "base/half.hpp"
#include "cpu/attention/attention.hpp"

#include <cstddef>
#include <cstdint>

inline constexpr v2e::KvPrecision ALL_PRECISIONS[] = {v2e::KvPrecision::fp32, v2e::KvPrecision::fp16,
                                                      v2e::KvPrecision::int8};

// The value at `index` of a key or value. `step` is what an int8 value is a multiple of.
inline double element(const std::byte *first, size_t index, v2e::KvPrecision precision, const float *step) {
    if (precision == v2e::KvPrecision::int8)
        return static_cast<double>(*step) * reinterpret_cast<const int8_t *>(first)[index];
    if (precision == v2e::KvPrecision::fp16)
        return v2e::float_from_half(reinterpret_cast<const uint16_t *>(first)[index]);
    return reinterpret_cast<const float *>(first)[index];
}
