#include "cuda/cuda_device_kind.hpp"

#include "cuda/cuda_decoder.hpp"
#include "cuda/device.hpp"
#include "cuda/device_plan.hpp"

namespace v2e::cuda {
namespace {

class CudaDevices final : public DeviceKind {
  public:
    std::unique_ptr<DeviceLayers> open(const Decoder &decoder, const v2e_decoder_options &options,
                                       std::string &reason) const override {
        return CudaDecoder::open(decoder, options, reason);
    }
    uint64_t free_bytes(std::string &reason) const override { return free_device_bytes(reason); }
    uint64_t context_bytes() const override { return CONTEXT_BYTES; }
    size_t default_chunk() const override { return DEFAULT_CHUNK; }
    DevicePlan plan(const Decoder &decoder, KvPrecision precision, size_t rows, size_t positions,
                    size_t layers) const override {
        return plan_device(decoder, precision, rows, positions, layers);
    }
};

} // namespace

const DeviceKind &device_kind() {
    static const CudaDevices instance;
    return instance;
}

} // namespace v2e::cuda
