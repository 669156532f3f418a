// The threads of a decoder, for what computes beside its decoder.
#pragma once

#include "base/thread_pool.hpp"
#include "valley2_parts.h"

#include <memory>

namespace v2e {

// Null for a null decoder, and for one that a backend computes.
std::shared_ptr<ThreadPool> threads_of(const v2e_decoder *decoder);

} // namespace v2e
