// The functions of valley2.h about memory.
#include "api/arguments.hpp"
#include "cuda/cuda_device_kind.hpp"
#include "plan/memory_plan.hpp"
#include "valley2.h"

v2e_status v2e_plan_memory(const char *bundle_directory, const v2e_memory_options *options, v2e_memory_plan *plan) {
    return v2e::guard([&] {
        v2e::require(bundle_directory, "bundle_directory");
        v2e::write_struct(v2e::plan_memory(bundle_directory, v2e::read_options(options), v2e::cuda::device_kind()),
                          plan, "plan");
    });
}
