// Memory of this process. process_memory_posix.cpp and process_memory_windows.cpp implement it.
#pragma once

#include <cstdint>

namespace v2e {

// Resident bytes now; 0 where the system does not tell.
uint64_t resident_bytes();
// The most that there were so far; 0 where the system does not tell.
uint64_t peak_resident_bytes();

} // namespace v2e
