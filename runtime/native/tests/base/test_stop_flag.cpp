// What one look at a stop flag has seen holds for the rest of the call.
#include "base/stop_flag.hpp"
#include "tests/check.hpp"

using namespace v2e;

TEST_CASE("a stop flag that was seen holds until the next call") {
    StopFlag flag;
    CHECK(!flag.stops());
    flag.set();
    flag.clear();
    CHECK(!flag.stops());
    flag.set();
    CHECK(flag.stops());
    flag.clear(); // too late for this call, which may have left work out
    CHECK(flag.stops());
    flag.begin_call();
    CHECK(!flag.stops());
    CHECK(!stops(nullptr));
}
