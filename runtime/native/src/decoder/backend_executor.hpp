// The executor of decoders that a backend computes.
#pragma once

#include "base/backend_table.hpp"
#include "decoder/executor.hpp"

#include <vector>

namespace v2e {

class BackendExecutor final : public Executor {
  public:
    // The table must outlive it.
    BackendExecutor(const BackendTable &table, const DecoderSizes &sizes)
        : table_(table), sizes_(sizes), engine_(table.backend(), V2E_COMPONENT_DECODER) {}

    size_t default_chunk() const override { return DEFAULT_CHUNK; }
    // Keys and values are the engine's.
    void reserve_positions(size_t) override {}
    bool trim(size_t) override { return false; }
    void reserve_rows(size_t rows) override;
    uint64_t kv_bytes() const override { return kv_bytes_of(positions_); }
    uint64_t kv_bytes_of(size_t positions) const override;
    float *embeddings() override { return rows_.data(); }
    bool run(const ForwardCall &call) override;
    void interrupt() noexcept override { engine_.cancel(); }
    // run leaves no logits behind
    void read_logits(size_t, size_t, float *) override {}
    void narrow(size_t, const Narrowing &, Candidate *) override {}

    static constexpr size_t DEFAULT_CHUNK = 256;

  private:
    const BackendTable &table_;
    DecoderSizes sizes_;
    BackendEngine engine_;
    std::vector<float> rows_; // (rows, hidden_size) of the next chunk
    size_t positions_ = 0;    // up to the end of the last run
};

} // namespace v2e
