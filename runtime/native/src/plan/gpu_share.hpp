// What stays on a GPU, what leaves it for a while and what stays with the CPU, so that a question fits its memory.
#pragma once

#include "decoder/device_kind.hpp"
#include "plan/memory_plan.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <string>

namespace v2e {

struct GpuShare {
    v2e_gpu_share options;
    v2e_memory_plan plan;
};

// As v2e_share_gpu says it.
GpuShare share_gpu(const std::string &bundle_directory, const v2e_memory_options &wanted, const DeviceKind &devices);

// The same for any costs of a decoder with so many layers, beside vision engines on the GPU.
GpuShare share_gpu(size_t layers, const v2e_memory_options &wanted, const MemoryPlanner &planner);

} // namespace v2e
