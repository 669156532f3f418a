// The layers of a decoder that lie in the memory of a GPU, shared by sessions. What they are does not change; their
// weights may leave the GPU for a while, when nobody uses them.
#pragma once

#include "bundle/matrix.hpp"
#include "cuda/device.hpp"
#include "cuda/kernels/arguments.hpp"
#include "decoder/decoder.hpp"
#include "decoder/device_kind.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace v2e::cuda {

// A matrix on the device, in the layout of the file, with what the host must know of it.
struct UploadedMatrix {
    Precision precision;
    Code code;
    DeviceMatrix matrix;
    bool quantized() const { return precision == Precision::int4 || precision == Precision::int8; }
    const char *code_name() const; // as the kernels' names have it
};

struct UploadedLayer {
    const float *input_norm;
    UploadedMatrix qkv, output;
    const float *post_attention_norm;
    UploadedMatrix gate_up, down;
};

class CudaDecoder final : public DeviceLayers {
  public:
    // Nothing is returned, and `reason` says why in a part of a sentence, when no GPU is usable. options.gpu_layers 0:
    // as many as there is memory for beside what a session of `context_length` positions takes.
    static std::unique_ptr<CudaDecoder> open(const Decoder &decoder, const v2e_decoder_options &options,
                                             std::string &reason);

    const Device &device() const { return *device_; }
    // The first layers of the decoder; with all of them its head as well.
    const std::vector<UploadedLayer> &layers() const { return layers_; }
    bool whole() const { return whole_; }
    const float *norm() const { return norm_; }
    const UploadedMatrix &head() const { return head_; }
    const float *frequencies() const { return frequencies_; } // (head_size / 2,)

    const std::string &device_name() const override { return device_->name(); }
    size_t layer_count() const override { return layers_.size(); }
    uint64_t bytes() const override { return bytes_; }

    // While it is held the weights are where layers(), norm(), head() and frequencies() say. Uploads them where
    // offload_weights has freed them. The context must be current.
    std::shared_lock<std::shared_mutex> use();
    // How often the weights were uploaded. After each upload they have other addresses.
    size_t uploads() const { return uploads_; }
    void offload_weights() override;
    std::unique_ptr<Executor> make_executor(KvPrecision precision, size_t context_length) override;

  private:
    CudaDecoder(const Decoder &decoder, std::unique_ptr<Device> device, bool may_offload)
        : decoder_(decoder), device_(std::move(device)), may_offload_(may_offload) {}
    void upload();
    void upload_weights();
    UploadedMatrix upload_matrix(const Matrix &matrix);
    const float *upload_floats(const float *values, size_t count);
    Address upload_bytes(const void *source, size_t bytes);

    const Decoder &decoder_;
    std::unique_ptr<Device> device_;
    bool may_offload_;
    std::shared_mutex mutex_; // shared by those who use the weights
    size_t uploads_ = 0;
    std::vector<DeviceMemory> memory_; // empty while the weights are not there
    std::vector<UploadedLayer> layers_;
    bool whole_ = false;
    const float *norm_ = nullptr;
    UploadedMatrix head_{};
    const float *frequencies_ = nullptr;
    uint64_t bytes_ = 0;
};

} // namespace v2e::cuda
