#include "vision/projector_mlp.hpp"

namespace v2e {

void ProjectorMlp::reserve(size_t rows, unsigned threads) {
    rows_.reserve(rows, widest(), threads);
    values_.reserve(rows * floats());
}

Saturating ProjectorMlp::bytes(size_t rows, unsigned threads) const {
    return SharedRows::bytes(rows, widest(), threads) + Saturating(rows) * floats() * sizeof(float);
}

double ProjectorMlp::operations(size_t rows) const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(inner_.outputs * (inner_.columns + outer_.outputs));
}

void ProjectorMlp::pack_values(TowerEngine &engine, const VisionArithmetic &arithmetic, const TowerMatrix &made,
                               size_t rows, StageCheck &check, int stage) {
    const auto value_row = [&](float *, size_t index) { return values_.data() + index * made.padded_outputs(); };
    rows_.pack(engine, arithmetic, made.outputs, rows, value_row, check, stage);
}

} // namespace v2e
