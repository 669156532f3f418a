// The C call of the memory plan refuses what it cannot plan; what it counts is tested from Python, on whole bundles.
#include "cuda/cuda_backend.hpp"
#include "plan/memory_plan.hpp"
#include "tests/check.hpp"

using namespace v2e;

TEST(memory_plan_refuses_a_directory_without_a_manifest) {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    CHECK_FAILS(V2E_ERROR_BUNDLE, "/no/such/bundle/valley2.json",
                plan_memory("/no/such/bundle", options, cuda::backend()));
}

TEST(memory_plan_refuses_pictures_that_are_not_there) {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    options.picture_count = 1;
    CHECK_FAILS(V2E_ERROR_INPUT, "pictures is NULL", plan_memory("/no/such/bundle", options, cuda::backend()));
}

TEST(memory_plan_needs_the_sizes_of_its_structs) {
    v2e_memory_options options{};
    v2e_memory_plan plan{};
    CHECK(v2e_plan_memory("/no/such/bundle", &options, &plan) == V2E_ERROR_INPUT);
    plan.struct_size = sizeof plan;
    CHECK(v2e_plan_memory("/no/such/bundle", &options, &plan) == V2E_ERROR_INPUT);
    CHECK(v2e_plan_memory(nullptr, &options, &plan) == V2E_ERROR_INPUT);
}
