// Amounts of memory in the words that people read.
#include "base/byte_count.hpp"
#include "tests/check.hpp"

#include <cstdint>

using namespace v2e;

TEST_CASE("an amount of memory has one decimal from a kibibyte on") {
    CHECK(format_bytes(0) == "0 B");
    CHECK(format_bytes(1023) == "1023 B");
    CHECK(format_bytes(1024) == "1.0 KiB");
    CHECK(format_bytes(1536) == "1.5 KiB");
    CHECK(format_bytes(uint64_t{5} << 20) == "5.0 MiB");
    CHECK(format_bytes((uint64_t{7} << 30) + (uint64_t{1} << 29)) == "7.5 GiB");
    CHECK(format_bytes(uint64_t{3000} << 40) == "3000.0 TiB"); // there is no larger unit
    CHECK(format_bytes(UINT64_MAX) == "16777216.0 TiB");
}

TEST_CASE("what would fit is rounded up to 64 MiB") {
    constexpr uint64_t STEP = uint64_t{64} << 20;
    CHECK(fitting_mebibytes(0) == 0);
    CHECK(fitting_mebibytes(1) == 64);
    CHECK(fitting_mebibytes(STEP) == 64);
    CHECK(fitting_mebibytes(STEP + 1) == 128);
    CHECK(fitting_mebibytes(UINT64_MAX) == (uint64_t{1} << 44)); // nothing wraps
}
