// What a question takes of a GPU's memory, phase by phase: the decoder's layers, and what a backend holds there
// of the vision components.
#pragma once

#include "decoder/decoder.hpp"
#include "decoder/device_kind.hpp"
#include "valley2_parts.h"

#include <cstdint>

namespace v2e {

// Memory of the vision components on the GPU; all 0 when they are with the CPU, or when there are no pictures.
struct GpuVision {
    uint64_t siglip = 0, projector = 0, eagle = 0; // weights
    uint64_t siglip_work = 0, eagle_work = 0;
    uint64_t library = 0; // the backends' own
};

struct GpuPlan {
    DevicePlan decoder{}; // has no layers when the decoder is with the CPU
    uint64_t context = 0; // the driver's, the kernels' and the backends' own
    uint64_t tiles = 0, eagle = 0, answer = 0;
    uint64_t memory = 0; // that may be used; 0: there is no GPU to ask

    uint64_t peak() const;
    void write(const GpuVision &vision, v2e_memory_plan &plan) const;
};

// The largest number of layers with which every phase fits, unless the options name one; `decoder` is NULL when a
// v2e_backend computes it, which takes `fixed`. Fails with V2E_ERROR_INPUT where there must be a GPU and is none, with
// V2E_ERROR_BUDGET where nothing fits.
GpuPlan plan_gpu(const Decoder *decoder, const DevicePlan &fixed, const v2e_memory_options &options, uint64_t context,
                 const GpuVision &vision, const DeviceKind &devices);

} // namespace v2e
