// What a question about pictures will cost in memory, before anything is loaded (docs/memory.md).
#pragma once

#include "decoder/device_kind.hpp"
#include "valley2_parts.h"

#include <functional>
#include <string>

namespace v2e {

// What options cost. Fails with V2E_ERROR_BUDGET when they ask for what cannot be, whatever the limit.
using MemoryPlanner = std::function<v2e_memory_plan(const v2e_memory_options &)>;

// Reads the manifest and the headers of the decoder's files. The devices say what a GPU holds and has. struct_size of
// the result is the library's.
v2e_memory_plan plan_memory(const std::string &bundle_directory, const v2e_memory_options &options,
                            const DeviceKind &devices);

} // namespace v2e
