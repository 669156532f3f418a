// What the handle of a cancel holds, for the calls that look at it.
#pragma once

#include "base/stop_flag.hpp"
#include "valley2.h"

#include <memory>

namespace v2e {

// The flag of a handle, which lives on when the handle is destroyed. Null for NULL.
std::shared_ptr<const CancelFlag> flag_of(const v2e_cancel *cancel);

} // namespace v2e
