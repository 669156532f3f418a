#include "decoder/executor.hpp"

#include "cuda/cuda_executor.hpp"
#include "decoder/cpu_executor.hpp"

namespace v2e {

std::unique_ptr<Executor> make_executor(const Decoder &decoder, KvPrecision precision, size_t context_length) {
    if (decoder.device() == nullptr)
        return std::make_unique<CpuExecutor>(decoder, precision);
    const cuda::CurrentContext current(decoder.device()->device());
    return std::make_unique<cuda::CudaExecutor>(decoder, *decoder.device(), precision, context_length);
}

} // namespace v2e
