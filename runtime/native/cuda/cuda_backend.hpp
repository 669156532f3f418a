// The backend of NVIDIA's GPUs: what api/ hands to the decoder and to the planner.
#pragma once

#include "decoder/backend.hpp"

namespace v2e::cuda {

const Backend &backend();

} // namespace v2e::cuda
