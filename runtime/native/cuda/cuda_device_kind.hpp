// NVIDIA's GPUs as a kind of device: what api/ hands to the decoder and to the planner.
#pragma once

#include "decoder/device_kind.hpp"

namespace v2e::cuda {

const DeviceKind &device_kind();

} // namespace v2e::cuda
