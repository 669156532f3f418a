// The executor of decoders that run on the CPU alone.
#pragma once

#include "decoder/executor.hpp"

namespace v2e {

class CpuExecutor final : public Executor {
  public:
    CpuExecutor(const Decoder &decoder, KvPrecision precision)
        : decoder_(decoder),
          cache_(decoder.config().layers, decoder.config().kv_heads, decoder.config().head_size, precision) {}

    size_t default_chunk() const override { return 256; }
    void reserve_positions(size_t positions) override { cache_.reserve(positions); }
    void reserve_rows(size_t rows) override { scratch_.reserve(decoder_, rows); }
    bool trim(size_t positions) override { return cache_.trim(positions); }
    KvCache *host_cache() override { return &cache_; }
    uint64_t kv_bytes() const override { return cache_.bytes(); }
    uint64_t kv_bytes_of(size_t positions) const override { return cache_.bytes_of(positions); }
    float *embeddings() override { return scratch_.hidden.data(); }

    bool run(const ForwardCall &call) override {
        forward(decoder_, cache_, scratch_, call);
        return true;
    }
    // run leaves none behind
    void read_logits(size_t, size_t, float *) override {}
    void narrow(size_t, const Narrowing &, Candidate *) override {}

  private:
    const Decoder &decoder_;
    KvCache cache_;
    ForwardScratch scratch_;
};

} // namespace v2e
