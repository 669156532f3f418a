// Amounts of memory as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace v2e {

// 1536 is "1.5 KiB", as in Python.
std::string format_bytes(uint64_t count);

// What a refusal says would do: MiB, rounded up to some tens of them.
uint64_t fitting_mebibytes(uint64_t bytes);

} // namespace v2e
