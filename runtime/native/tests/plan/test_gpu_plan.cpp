// The plan of a GPU's memory asks the kind of device and nothing else: here it is one that needs no GPU.
#include "plan/gpu_plan.hpp"
#include "tests/check.hpp"

#include <string>

using namespace v2e;

namespace {

class FakeDevices final : public DeviceKind {
  public:
    explicit FakeDevices(uint64_t free) : free_(free) {}

    std::unique_ptr<DeviceLayers> open(const Decoder &, const v2e_decoder_options &,
                                       std::string &reason) const override {
        reason = "it holds no layers";
        return nullptr;
    }
    uint64_t free_bytes(std::string &reason) const override {
        if (free_ == 0)
            reason = "none was plugged in";
        return free_;
    }
    uint64_t context_bytes() const override { return 7; }
    size_t default_chunk() const override { return 64; }
    DevicePlan plan(const Decoder &, KvPrecision, size_t, size_t, size_t layers) const override {
        return {layers, 0, 0, 0};
    }

  private:
    uint64_t free_;
};

v2e_memory_options options_for(v2e_device device) {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    options.device = device;
    return options;
}

} // namespace

TEST_CASE("the GPU plan takes the free memory and the context of its device") {
    GpuVision vision;
    vision.siglip = 1000;
    vision.siglip_work = 200;
    vision.library = 30;
    const GpuPlan plan = plan_gpu(nullptr, {}, options_for(V2E_DEVICE_AUTO), 4096, vision, FakeDevices(5000));
    CHECK(plan.memory == 5000);
    CHECK(plan.decoder.layers == 0);
    CHECK(plan.context == 37); // the driver's 7 beside the library's
    CHECK(plan.tiles == plan.context + 1200);
    CHECK(plan.answer == plan.context);
}

TEST_CASE("the GPU plan is empty when nothing may run on a GPU") {
    const GpuPlan plan = plan_gpu(nullptr, {}, options_for(V2E_DEVICE_CPU), 4096, GpuVision(), FakeDevices(5000));
    CHECK(plan.memory == 0);
    CHECK(plan.peak() == 0);
}

TEST_CASE("the GPU plan says why there is no GPU that must be there") {
    GpuVision vision;
    vision.siglip = 1000;
    CHECK_FAILS(V2E_ERROR_INPUT, "none was plugged in",
                plan_gpu(nullptr, {}, options_for(V2E_DEVICE_CUDA), 4096, vision, FakeDevices(0)));
}
