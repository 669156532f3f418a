// 16-bit float conversions over their whole range.
#include "base/half.hpp"
#include "tests/check.hpp"

#include <cmath>
#include <limits>

using namespace v2e;

TEST_CASE("every fp16 value survives the round trip") {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const uint16_t half = static_cast<uint16_t>(bits);
        const float value = float_from_half(half);
        if ((half & 0x7fffu) > 0x7c00u) {
            CHECK(std::isnan(value));
            CHECK(std::isnan(float_from_half(half_from_float(value))));
        } else
            CHECK(half_from_float(value) == half);
    }
}

TEST_CASE("fp16 has the values of IEEE 754") {
    CHECK(float_from_half(0x3c00) == 1.0f);
    CHECK(float_from_half(0xc000) == -2.0f);
    CHECK(float_from_half(0x7bff) == 65504.0f);
    CHECK(float_from_half(0x0001) == std::ldexp(1.0f, -24));
    CHECK(float_from_half(0x03ff) == std::ldexp(1023.0f, -24));
    CHECK(std::isinf(float_from_half(0x7c00)));
}

TEST_CASE("fp16 rounds to nearest even") {
    CHECK(half_from_float(1.0f + std::ldexp(1.0f, -11)) == 0x3c00); // a tie goes to the even neighbour
    CHECK(half_from_float(1.0f + 3 * std::ldexp(1.0f, -11)) == 0x3c02);
    CHECK(half_from_float(std::nextafter(1.0f + std::ldexp(1.0f, -11), 2.0f)) == 0x3c01);
    CHECK(half_from_float(65519.0f) == 0x7bff);
    CHECK(half_from_float(65520.0f) == 0x7c00);
    CHECK(half_from_float(std::ldexp(1.0f, -25)) == 0x0000);
    CHECK(half_from_float(std::nextafter(std::ldexp(1.0f, -25), 1.0f)) == 0x0001);
    CHECK(half_from_float(-std::numeric_limits<float>::infinity()) == 0xfc00);
}

TEST_CASE("bf16 is the upper part of a float") {
    CHECK(float_from_bf16(0x3f80) == 1.0f);
    CHECK(float_from_bf16(0xc040) == -3.0f);
}
