// The functions of valley2_parts.h about the machine's limits.
#include "cpu/probe/probe.hpp"
#include "api/arguments.hpp"
#include "cuda/cuda_probe.hpp"
#include "valley2_parts.h"

#include <memory>

// Measures the CPU or a GPU; the other pointer is null.
struct v2e_probe {
    std::unique_ptr<v2e::Probe> cpu;
    std::unique_ptr<v2e::cuda::CudaProbe> gpu;
};

using namespace v2e;

namespace {

// A null method: the device has no such limit.
v2e_status measure(v2e_probe *probe, double (Probe::*cpu)(), double (cuda::CudaProbe::*gpu)(), double *rate,
                   const char *name) {
    return guard([&] {
        require(probe, "probe");
        require(rate, name);
        if (probe->cpu != nullptr && cpu != nullptr)
            *rate = (probe->cpu.get()->*cpu)();
        else if (probe->gpu != nullptr && gpu != nullptr)
            *rate = (probe->gpu.get()->*gpu)();
        else
            fail(V2E_ERROR_INPUT, "The device of this probe has no such limit.");
    });
}

} // namespace

v2e_status v2e_probe_open(const v2e_probe_options *options, v2e_probe **probe) {
    return guard([&] {
        require(probe, "probe");
        *probe = nullptr;
        const v2e_probe_options read = read_options(options);
        if (read.device > V2E_DEVICE_CUDA)
            fail(V2E_ERROR_INPUT, "device is %u, which is no v2e_device.", static_cast<unsigned>(read.device));
        auto made = std::make_unique<v2e_probe>();
        if (read.device == V2E_DEVICE_CUDA)
            made->gpu = std::make_unique<cuda::CudaProbe>();
        else
            made->cpu = std::make_unique<Probe>(read);
        *probe = made.release();
    });
}

v2e_status v2e_probe_bandwidth(v2e_probe *probe, double *bytes_per_second) {
    return measure(probe, &Probe::bandwidth, &cuda::CudaProbe::bandwidth, bytes_per_second, "bytes_per_second");
}

v2e_status v2e_probe_int8(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, &Probe::int8_peak, nullptr, operations_per_second, "operations_per_second");
}

v2e_status v2e_probe_fp32(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, &Probe::fp32_peak, nullptr, operations_per_second, "operations_per_second");
}

v2e_status v2e_probe_fp16(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, nullptr, &cuda::CudaProbe::fp16_peak, operations_per_second, "operations_per_second");
}

void v2e_probe_close(v2e_probe *probe) {
    delete probe;
}
