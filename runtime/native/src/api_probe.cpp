// The functions of valley2.h about the machine's limits.
#include "error.hpp"
#include "probes/probe.hpp"
#include "valley2.h"

struct v2e_probe {
    v2e::Probe probe;
};

using namespace v2e;

namespace {

v2e_status measure(v2e_probe *probe, double *rate, double (Probe::*method)()) {
    return guard([&] {
        if (probe == nullptr || rate == nullptr)
            fail(V2E_ERROR_INPUT, "%s is NULL.", probe == nullptr ? "probe" : "the place for the rate");
        *rate = (probe->probe.*method)();
    });
}

} // namespace

v2e_status v2e_probe_open(const v2e_probe_options *options, v2e_probe **probe) {
    return guard([&] {
        if (probe == nullptr)
            fail(V2E_ERROR_INPUT, "probe is NULL.");
        *probe = nullptr;
        *probe = new v2e_probe{Probe(read_options(options))};
    });
}

v2e_status v2e_probe_bandwidth(v2e_probe *probe, double *bytes_per_second) {
    return measure(probe, bytes_per_second, &Probe::bandwidth);
}

v2e_status v2e_probe_int8(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, operations_per_second, &Probe::int8_peak);
}

v2e_status v2e_probe_fp32(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, operations_per_second, &Probe::fp32_peak);
}

void v2e_probe_close(v2e_probe *probe) {
    delete probe;
}
