// What the decoder asks of devices beside the CPU. It knows no kind of them: whoever opens a decoder brings one.
#pragma once

#include "cpu/attention/attention.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace v2e {

class Decoder;
class Executor;

// The first layers of one decoder, held by a device and shared by sessions.
class DeviceLayers {
  public:
    DeviceLayers() = default;
    virtual ~DeviceLayers() = default;
    DeviceLayers(const DeviceLayers &) = delete;
    DeviceLayers &operator=(const DeviceLayers &) = delete;

    virtual const std::string &device_name() const = 0;
    virtual size_t layer_count() const = 0; // with all layers of the decoder its head is there as well
    virtual uint64_t bytes() const = 0;
    // Waits until nobody uses the weights, and gives their memory back until somebody does. Layers that were opened
    // without permission for this keep it.
    virtual void offload_weights() = 0;
    // Computes sessions of at most `context_length` positions. The decoder must outlive it.
    virtual std::unique_ptr<Executor> make_executor(KvPrecision precision, size_t context_length) = 0;
};

// What a decoder and one session take of a device's memory.
struct DevicePlan {
    size_t layers; // the first ones; with all of them the head as well
    uint64_t weight_bytes, kv_bytes, scratch_bytes;
};

// One kind of device.
class DeviceKind {
  public:
    virtual ~DeviceKind() = default;

    // Returns null, and sets `reason` to a part of a sentence, when no device is usable.
    virtual std::unique_ptr<DeviceLayers> open(const Decoder &decoder, const v2e_decoder_options &options,
                                               std::string &reason) const = 0;
    // Free memory of the first usable device. Returns 0, and sets `reason` to a part of a sentence, when there is none.
    virtual uint64_t free_bytes(std::string &reason) const = 0;
    // Memory that a process takes of a device before it holds any layer.
    virtual uint64_t context_bytes() const = 0;
    // Positions that are best computed together in a prefill.
    virtual size_t default_chunk() const = 0;
    // For chunks of `rows` positions, in a session of `positions` at most, with the first `layers`.
    virtual DevicePlan plan(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions,
                            size_t layers) const = 0;
};

} // namespace v2e
