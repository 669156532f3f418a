// Guards of mapped files. Touching a mapped page that its file no longer has is a SIGBUS, which would end the process.
// As long as files are mapped, a handler puts zeros in the place of what was lost and notes it, so that the call that
// is running ends with a sentence. Signals that are not about these files go to the handler that was there before.
#pragma once

#include "base/posix.hpp"

#include <sys/stat.h>

namespace v2e {

struct GuardedMapping;

// Guards the mapping of a file. Its open descriptor is the guard's from now on. Throws std::bad_alloc.
GuardedMapping *guard_mapping(const void *data, FileDescriptor &file, const struct stat &status);
// Whether the file is not any more what it was when it was mapped, or a page of it was lost.
bool mapping_changed(const GuardedMapping &mapping) noexcept;
void end_guard(GuardedMapping &mapping) noexcept;

} // namespace v2e
