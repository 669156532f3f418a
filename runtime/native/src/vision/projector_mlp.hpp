// The MLP of the projectors without a vocabulary: linear, exact GELU, linear, on the rows of one tile.
#pragma once

#include "vision/shared_rows.hpp"

#include <algorithm>
#include <cstddef>

namespace v2e {

class ProjectorMlp {
  public:
    // The matrices `inner` and `outer` of a file.
    ProjectorMlp(const TowerFile &file, size_t inputs, size_t middle, size_t outputs)
        : inner_(file.matrix("inner", middle, inputs)), outer_(file.matrix("outer", outputs, middle)) {}

    void reserve(size_t rows, unsigned threads);
    Saturating bytes(size_t rows, unsigned threads) const;
    double operations(size_t rows) const;

    // values (rows, stride) of the rows that row_of(buffer, index) returns, as SharedRows::pack takes them. What is not
    // finite is noted as `first_stage` where it comes from the rows, and else as the one behind it.
    template <class RowOf>
    void run(TowerEngine &engine, size_t rows, RowOf &&row_of, StageCheck &check, int first_stage) {
        rows_.pack(engine, engine.arithmetic(inner_), inner_.columns, rows, row_of, check, first_stage);
        rows_.multiply(engine, inner_, values_.data(), inner_.padded_outputs(), Finish::gelu);
        pack_values(engine, engine.arithmetic(outer_), inner_, rows, check, first_stage + 1);
        rows_.multiply(engine, outer_, values_.data(), stride(), Finish::store);
    }
    const float *values() const { return values_.data(); }
    size_t stride() const { return outer_.padded_outputs(); }

    // The values, packed for a matrix of theirs.
    const SharedRows &pack(TowerEngine &engine, const VisionArithmetic &arithmetic, size_t rows, StageCheck &check,
                           int stage) {
        pack_values(engine, arithmetic, outer_, rows, check, stage);
        return rows_;
    }

  private:
    // What a matrix has made.
    void pack_values(TowerEngine &engine, const VisionArithmetic &arithmetic, const TowerMatrix &made, size_t rows,
                     StageCheck &check, int stage);
    size_t widest() const { return std::max({inner_.columns, outer_.columns, outer_.outputs}); }
    size_t floats() const { return std::max(inner_.padded_outputs(), outer_.padded_outputs()); }

    TowerMatrix inner_, outer_;
    SharedRows rows_;
    AlignedBuffer<float> values_; // what is between the matrices, then behind them
};

} // namespace v2e
