#include "decoder/make_executor.hpp"

#include "decoder/cpu_executor.hpp"

namespace v2e {

std::unique_ptr<Executor> make_executor(const Decoder &decoder, KvPrecision precision, size_t context_length) {
    if (decoder.device() == nullptr)
        return std::make_unique<CpuExecutor>(decoder, precision);
    return decoder.device()->make_executor(precision, context_length);
}

} // namespace v2e
