#include "decoder/backend_executor.hpp"

#include "base/error.hpp"
#include "cpu/elementwise/elementwise.hpp"
#include "cpu/isa.hpp"

namespace v2e {

void BackendExecutor::reserve_rows(size_t rows) {
    if (rows_.size() < rows * sizes_.hidden_size)
        rows_.resize(rows * sizes_.hidden_size);
}

uint64_t BackendExecutor::kv_bytes_of(size_t positions) const {
    if (positions == 0)
        return 0;
    const v2e_backend_cost cost = table_.cost(V2E_COMPONENT_DECODER, 1, positions);
    return cost.kv_bytes + cost.gpu_kv_bytes;
}

bool BackendExecutor::run(const ForwardCall &call) {
    require_going(call.stop);
    v2e_backend_run run{};
    run.struct_size = sizeof run;
    run.values = rows_.data();
    run.count = call.count;
    run.row_floats = sizes_.hidden_size;
    run.past = call.position;
    run.logit_rows = call.logit_rows;
    run.output = call.logits;
    run.output_floats = call.logit_rows * sizes_.vocabulary_size;
    engine_.run(run);
    require_going(call.stop); // a backend that cannot be cancelled ran to its end
    if (!elementwise_kernels(best_isa()).is_finite(call.logits, run.output_floats))
        fail(V2E_ERROR_NUMERIC, "The backend %s computed a NaN or an infinity in the logits.", table_.name().c_str());
    positions_ = call.position + call.count;
    return true;
}

} // namespace v2e
