// The threads of a model, for what computes beside its decoder.
#pragma once

#include "base/thread_pool.hpp"
#include "valley2.h"

#include <memory>

namespace v2e {

// Null for a null model, and for one that a backend computes.
std::shared_ptr<ThreadPool> threads_of(const v2e_model *model);

} // namespace v2e
