// The Qwen2.5 decoder: its weights, mapped from disk, and the embedding table. Immutable, shared by sessions.
#pragma once

#include "base/thread_pool.hpp"
#include "bundle/matrix.hpp"
#include "bundle/safetensors.hpp"
#include "cpu/attention/attention.hpp"
#include "cpu/elementwise/elementwise.hpp"
#include "cpu/linear/linear.hpp"
#include "decoder/backend.hpp"
#include "valley2.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace v2e {

struct DecoderConfig {
    size_t hidden_size;
    size_t intermediate_size;
    size_t layers;
    size_t heads;
    size_t kv_heads;
    size_t head_size;
    size_t vocabulary_size;
    size_t max_context;
    double rms_norm_eps;
    double rope_theta;

    size_t query_size() const { return heads * head_size; }
    size_t kv_size() const { return kv_heads * head_size; }
    size_t qkv_size() const { return query_size() + 2 * kv_size(); }
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
    // The options say whether a device of the backend may compute layers; the backend must outlive the decoder.
    Decoder(const std::string &directory, const v2e_model_options &options, const Backend &backend);

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
    v2e_model_description describe() const;
    size_t weight_file_bytes() const { return weights_.mapped_bytes(); }
    size_t embedding_file_bytes() const { return embedding_file_.mapped_bytes(); }
    // Lets the system take back the pages of the mapped files.
    void drop_pages() const noexcept;
    // Drops the pages, and takes the weights off the device until they are used again, if the options allow that.
    void trim() const;
    // Fails when one of its files is not any more what it was when it was opened.
    void require_intact() const {
        weights_.require_intact();
        embedding_file_.require_intact();
    }

    // Fails with V2E_ERROR_INPUT for an id outside the vocabulary, naming it.
    void check_tokens(const int32_t *tokens, size_t count) const;
    // Rows of the embedding table, (count, hidden_size). The ids have been checked.
    void embed(const int32_t *tokens, size_t count, float *embeddings) const;

  private:
    void load_config();
    void open_device(const v2e_model_options &options, const Backend &backend);
    void load_weights();
    void load_embeddings();
    void check_matrix(const Matrix &matrix, const std::string &name, size_t rows, size_t columns) const;
    const float *load_norm(const std::string &name) const;
    void check_no_other_tensors() const;

    SafetensorsFile weights_;
    SafetensorsFile embedding_file_;
    DecoderConfig config_{};
    std::vector<DecoderLayer> layers_;
    const float *norm_ = nullptr;
    Matrix head_;
    TensorView embeddings_; // (vocabulary_size, hidden_size) BF16, F16 or F32
    std::vector<float> inverse_frequencies_;
    std::shared_ptr<ThreadPool> pool_;
    std::unique_ptr<Linear> linear_;
    const ElementwiseKernels *elementwise_ = nullptr;
    const AttentionKernels *attention_ = nullptr;
    std::unique_ptr<DeviceLayers> device_;
    std::string device_reason_;
};

} // namespace v2e
