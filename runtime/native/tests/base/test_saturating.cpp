// Sums and products of sizes that come from elsewhere never begin again at 0.
#include "base/saturating.hpp"
#include "tests/check.hpp"

using namespace v2e;

TEST_CASE("saturating numbers stop at their ends") {
    const Saturating most = UINT64_MAX, half = uint64_t{1} << 63, none;
    CHECK((most + 1).value() == UINT64_MAX);
    CHECK((most + most).value() == UINT64_MAX);
    CHECK((half + half).value() == UINT64_MAX);
    CHECK((half * 2).value() == UINT64_MAX);
    CHECK((most * most).value() == UINT64_MAX);
    CHECK((most * none).value() == 0);
    CHECK((none * most).value() == 0);
    CHECK((Saturating(1) - 2).value() == 0);
    CHECK((most - 1).value() == UINT64_MAX - 1);
    Saturating sum = half;
    CHECK((sum += half).value() == UINT64_MAX);
}

TEST_CASE("saturating numbers are exact below") {
    const Saturating three = 3, four = size_t{4};
    CHECK((three * four + 5 - 7).value() == 10);
    CHECK((four * 5 / 2).value() == 10);
    CHECK((Saturating(uint64_t{1} << 32) * (uint64_t{1} << 31)).value() == uint64_t{1} << 63);
    CHECK(three < four);
    CHECK(four > three);
    CHECK(three == Saturating(3));
}
