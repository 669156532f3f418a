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

TEST_CASE("a caller's cancel stops every call that looks at it, and outlives its handle") {
    auto cancel = std::make_shared<CancelFlag>();
    StopFlag first(cancel), second;
    second.begin_call(cancel);
    CHECK(!first.stops());
    cancel->set();
    CHECK(first.stops());
    cancel->clear(); // the second call has not looked yet
    CHECK(first.stops());
    CHECK(!second.stops());
    cancel->set();
    cancel.reset();
    CHECK(second.stops());
    second.begin_call(nullptr);
    CHECK(!second.stops());
}
