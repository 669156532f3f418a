// What has to be given up so that a question keeps a limit on memory (docs/memory.md, "A limit").
#pragma once

#include "decoder/device_kind.hpp"
#include "plan/memory_plan.hpp"
#include "valley2_parts.h"

#include <cstdint>
#include <string>

namespace v2e {

struct MemoryChoice {
    v2e_memory_choice options;
    v2e_memory_plan plan;
};

// As v2e_choose_memory says it.
MemoryChoice choose_memory(const std::string &bundle_directory, uint64_t limit_bytes, const v2e_memory_options &wanted,
                           const DeviceKind &devices);

// The same for any costs. `name` is what a refusal calls that which does not fit.
MemoryChoice choose_memory(const std::string &name, uint64_t limit_bytes, const v2e_memory_options &wanted,
                           const MemoryPlanner &planner);

// Fails with V2E_ERROR_BUDGET when the plan is above the limit; pictures that do not fit the context pass.
void check_memory(const std::string &bundle_directory, uint64_t limit_bytes, const v2e_memory_options &options,
                  const DeviceKind &devices);

} // namespace v2e
