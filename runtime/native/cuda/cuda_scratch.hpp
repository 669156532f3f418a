// What the passes of one session work in, on the device and beside it.
#pragma once

#include "cuda/device.hpp"
#include "cuda/kernels/arguments.hpp"

#include <cstddef>
#include <cstdint>

namespace v2e::cuda {

// What a pass needs to know on the device, and what it leaves for the host.
struct PassState {
    int position;             // row 0 in the session
    int status;               // NOT_FAILED, or the first stage that was not finite: layer * STAGES + stage
    uint64_t best[STEP_ROWS]; // see ChooseArguments
};

// The activations of one chunk on the device.
struct CudaScratch {
    size_t rows = 0;
    size_t segments = 0;   // that partials has room for
    DeviceMemory hidden;   // float (rows, hidden_size)
    DeviceMemory qkv;      // float (rows, qkv_size)
    DeviceMemory attended; // float (rows, query_size)
    DeviceMemory gate_up;  // float (rows, 2 * intermediate_size)
    DeviceMemory partials; // float (STEP_ROWS, heads, segments, head_size + 2)
    DeviceMemory logits;   // float (STEP_ROWS, vocabulary_size)
    DeviceMemory floats, halves, factors, planes, plane_sums, plane_scales; // PackedRows
    DeviceMemory state;                                                     // PassState
    PinnedMemory host_hidden;                                               // float (rows, hidden_size)
    PinnedMemory host_state; // PassState: uploaded, then downloaded behind it
};

} // namespace v2e::cuda
