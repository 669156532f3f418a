// The C call of the memory plan refuses what it cannot plan; what it counts is tested from Python, on whole bundles.
#include "cuda/cuda_device_kind.hpp"
#include "plan/memory_plan.hpp"
#include "tests/check.hpp"

using namespace v2e;

TEST_CASE("the memory plan refuses a directory without a manifest") {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    CHECK_FAILS(V2E_ERROR_BUNDLE, "/no/such/bundle/valley2.json",
                plan_memory("/no/such/bundle", options, cuda::device_kind()));
}

TEST_CASE("the memory plan refuses pictures that are not there") {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    options.picture_count = 1;
    CHECK_FAILS(V2E_ERROR_INPUT, "pictures is NULL", plan_memory("/no/such/bundle", options, cuda::device_kind()));
}

TEST_CASE("the memory plan needs the sizes of its structs") {
    v2e_memory_options options{};
    v2e_memory_plan plan{};
    CHECK(v2e_plan_memory("/no/such/bundle", &options, &plan) == V2E_ERROR_INPUT);
    plan.struct_size = sizeof plan;
    CHECK(v2e_plan_memory("/no/such/bundle", &options, &plan) == V2E_ERROR_INPUT);
    CHECK(v2e_plan_memory(nullptr, &options, &plan) == V2E_ERROR_INPUT);
}
