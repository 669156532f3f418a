// The kernels of one chunk of positions, in order.
#pragma once

#include "cuda/cuda_cache.hpp"
#include "cuda/cuda_decoder.hpp"
#include "cuda/cuda_scratch.hpp"
#include "decoder/decoder.hpp"

#include <cstddef>

namespace v2e::cuda {

// Enqueues and returns; the device follows. Rows before `first` are no longer needed: in the last layer only the keys
// and values of most positions matter.
class CudaPass {
  public:
    // `segments` are those that a step's attention may reach; 0 is a prefill, whose rows see all their keys at once.
    CudaPass(const Decoder &decoder, const CudaDecoder &on_device, const CudaCache &cache, const CudaScratch &scratch,
             const Queue &queue, size_t rows, size_t segments);

    void project_qkv(size_t layer);
    void drop_rows(size_t first) { first_ = first; }
    void attend(size_t layer);
    void run_mlp(size_t layer);
    // Computes the logits of rows [row, row + count) of the chunk, at most STEP_ROWS, into scratch.logits, and finds
    // the largest.
    void compute_logits(size_t row, size_t count);

  private:
    size_t rows() const { return count_ - first_; }
    float *hidden(size_t row) const { return scratch_.hidden.as<float>() + row * config_.hidden_size; }
    int *status() const { return &scratch_.state.as<PassState>()->status; }
    const int *position() const { return &scratch_.state.as<PassState>()->position; }
    PackedRows packed() const;
    bool few() const { return segments_ > 0; }

    void pack(const char *kernel, const float *input, const float *norm, size_t columns, const UploadedMatrix &reader,
              size_t count, bool few, int input_stage, int stage);
    void multiply(const UploadedMatrix &matrix, float *output, size_t stride, bool add, size_t count, bool few);
    void rotate(size_t layer);
    void attend_rows(size_t layer);

    const Decoder &decoder_;
    const CudaDecoder &on_device_;
    const CudaCache &cache_;
    const CudaScratch &scratch_;
    const Queue &queue_;
    const Device &device_;
    const DecoderConfig &config_;
    size_t count_;
    size_t segments_;
    size_t first_ = 0;
};

} // namespace v2e::cuda
