// The functions of valley2.h about memory.
#include "error.hpp"
#include "memory_plan.hpp"
#include "valley2.h"

#include <algorithm>
#include <cstring>

v2e_status v2e_plan_memory(const char *bundle_directory, const v2e_memory_options *options, v2e_memory_plan *plan) {
    return v2e::guard([&] {
        if (bundle_directory == nullptr)
            v2e::fail(V2E_ERROR_INPUT, "bundle_directory is NULL.");
        if (plan == nullptr || plan->struct_size < sizeof plan->struct_size)
            v2e::fail(V2E_ERROR_INPUT, "plan is missing or its struct_size is not set.");
        v2e_memory_plan full = v2e::plan_memory(bundle_directory, v2e::read_options(options));
        const size_t size = std::min(plan->struct_size, sizeof full);
        full.struct_size = plan->struct_size;
        std::memcpy(plan, &full, size);
    });
}
