#include "decoder/native_model.hpp"

#include "base/error.hpp"
#include "decoder/cpu_executor.hpp"

namespace v2e {

KvPrecision chosen_kv_precision(const Decoder &decoder, uint32_t kv_precision) {
    switch (kv_precision) {
    case V2E_KV_AUTO:
        return decoder.prefers_half_cache() ? KvPrecision::fp16 : KvPrecision::fp32;
    case V2E_KV_FP16:
        return KvPrecision::fp16;
    case V2E_KV_FP32:
        return KvPrecision::fp32;
    case V2E_KV_INT8:
        return KvPrecision::int8;
    default:
        fail(V2E_ERROR_INPUT, "kv_precision is %u, which is no v2e_kv_precision.", static_cast<unsigned>(kv_precision));
    }
}

v2e_decoder_description NativeModel::describe() const {
    v2e_decoder_description description = decoder_.describe();
    description.mapped_bytes += embeddings_.mapped_bytes();
    return description;
}

std::unique_ptr<Executor> NativeModel::make_executor(uint32_t kv_precision, size_t context_length) const {
    const KvPrecision precision = chosen_kv_precision(decoder_, kv_precision);
    if (decoder_.device() == nullptr)
        return std::make_unique<CpuExecutor>(decoder_, precision);
    return decoder_.device()->make_executor(precision, context_length);
}

void NativeModel::require_savable() const {
    if (decoder_.device() != nullptr)
        fail(V2E_ERROR_INPUT, "A session whose decoder is on a GPU can be neither saved nor loaded; choose the CPU.");
}

void NativeModel::require_intact() const {
    decoder_.require_intact();
    embeddings_.require_intact();
}

void NativeModel::trim() const {
    decoder_.trim();
    embeddings_.drop_pages();
}

} // namespace v2e
