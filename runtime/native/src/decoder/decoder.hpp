// The Qwen2.5 decoder: its weights, mapped from disk, and the kernels for them. Immutable, shared by sessions.
#pragma once

#include "base/thread_pool.hpp"
#include "bundle/matrix.hpp"
#include "bundle/safetensors.hpp"
#include "cpu/attention/attention.hpp"
#include "cpu/elementwise/elementwise.hpp"
#include "cpu/linear/linear.hpp"
#include "decoder/decoder_sizes.hpp"
#include "decoder/device_kind.hpp"
#include "valley2_parts.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace v2e {

struct DecoderConfig : DecoderSizes {
    double rms_norm_eps = 0.0;
    double rope_theta = 0.0;
};

struct DecoderLayer {
    const float *input_norm;          // (hidden_size,)
    Matrix qkv;                       // (query_size + 2 * kv_size, hidden_size), with bias
    Matrix output;                    // (hidden_size, query_size)
    const float *post_attention_norm; // (hidden_size,)
    Matrix gate_up;                   // (2 * intermediate_size, hidden_size): gate rows, then up rows
    Matrix down;                      // (hidden_size, intermediate_size)
};

class Decoder {
  public:
    // The options say whether one of the devices may compute layers; their kind must outlive the decoder.
    Decoder(const std::string &directory, const v2e_decoder_options &options, const DeviceKind &devices);

    const DecoderConfig &config() const { return config_; }
    const std::vector<DecoderLayer> &layers() const { return layers_; }
    const float *norm() const { return norm_; } // (hidden_size,)
    const Matrix &head() const { return head_; }
    const std::vector<float> &inverse_frequencies() const { return inverse_frequencies_; } // (head_size / 2,)

    ThreadPool &pool() const { return *pool_; }
    const std::shared_ptr<ThreadPool> &shared_pool() const { return pool_; }
    const Linear &linear() const { return *linear_; }
    const ElementwiseKernels &elementwise() const { return *elementwise_; }
    const AttentionKernels &attention() const { return *attention_; }

    // The layers that a device computes; null: there are none.
    DeviceLayers *device() const { return device_.get(); }
    // Why there are none although one was allowed, a part of a sentence; empty: there are, or none was.
    const std::string &device_reason() const { return device_reason_; }

    // Whether a KV cache in fp16 is precise enough: everything but a decoder in fp32.
    bool prefers_half_cache() const { return head_.precision != Precision::fp32; }
    // All but the embedding table.
    v2e_decoder_description describe() const;
    size_t weight_file_bytes() const { return weights_.mapped_bytes(); }
    // Lets the system take back the pages of the file.
    void drop_pages() const noexcept { weights_.drop_pages(); }
    // Drops the pages, and takes the weights off the device until they are used again, if the options allow that.
    void trim() const;
    // Fails when its file is not any more what it was when it was opened.
    void require_intact() const { weights_.require_intact(); }

  private:
    void load_config();
    void open_device(const v2e_decoder_options &options, const DeviceKind &devices);
    void load_weights();
    void check_matrix(const Matrix &matrix, const std::string &name, size_t rows, size_t columns) const;
    const float *load_norm(const std::string &name) const;
    void check_no_other_tensors() const;

    SafetensorsFile weights_;
    DecoderConfig config_;
    std::vector<DecoderLayer> layers_;
    const float *norm_ = nullptr;
    Matrix head_;
    std::vector<float> inverse_frequencies_;
    std::shared_ptr<ThreadPool> pool_;
    std::unique_ptr<Linear> linear_;
    const ElementwiseKernels *elementwise_ = nullptr;
    const AttentionKernels *attention_ = nullptr;
    std::unique_ptr<DeviceLayers> device_;
    std::string device_reason_;
};

} // namespace v2e
