// The executor of decoders whose first layers, or all of them, run on a GPU.
#pragma once

#include "cuda/cuda_cache.hpp"
#include "cuda/cuda_decoder.hpp"
#include "cuda/cuda_narrowing.hpp"
#include "cuda/cuda_scratch.hpp"
#include "cuda/device.hpp"
#include "decoder/executor.hpp"
#include "decoder/kv_cache.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace v2e::cuda {

class CudaExecutor final : public Executor {
  public:
    // The device's context must be current.
    CudaExecutor(const Decoder &decoder, CudaDecoder &device_decoder, KvPrecision precision, size_t context_length);
    ~CudaExecutor() override;

    size_t default_chunk() const override;
    void reserve_positions(size_t positions) override;
    void reserve_rows(size_t rows) override;
    bool trim(size_t positions) override;
    uint64_t kv_bytes() const override;
    uint64_t kv_bytes_of(size_t positions) const override;
    float *embeddings() override { return scratch_.host_hidden.as<float>(); }
    bool run(const ForwardCall &call) override;
    void read_logits(size_t first, size_t count, float *logits) override;
    void narrow(size_t row, const Narrowing &narrowing, Candidate *candidates) override;

  private:
    void drop_recordings() noexcept;
    void run_step(const ForwardCall &call);
    void run_prefill(const ForwardCall &call);
    void run_rest_on_cpu(const ForwardCall &call, size_t rows);
    void begin_pass(const ForwardCall &call);
    void enqueue_step(size_t rows, size_t segments);
    void compute_prefill_logits(const ForwardCall &call);
    void check_status() const;

    const Decoder &decoder_;
    CudaDecoder &on_device_;
    const Device &device_;
    size_t context_length_;
    Queue queue_;
    CudaCache cache_;
    std::optional<KvCache> cpu_cache_; // holds the layers that are not on the device
    ForwardScratch cpu_scratch_;
    CudaScratch scratch_;
    CudaNarrowing narrowing_;
    std::map<std::pair<size_t, size_t>, GraphExec> recordings_; // decode steps, by rows and segments
    size_t recorded_upload_ = 0;                                // the upload whose addresses the recordings hold
};

} // namespace v2e::cuda
