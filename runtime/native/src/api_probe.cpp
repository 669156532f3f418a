// The functions of valley2.h about the machine's limits.
#include "arguments.hpp"
#include "probes/probe.hpp"
#include "valley2.h"

struct v2e_probe {
    v2e::Probe probe;
};

using namespace v2e;

namespace {

v2e_status measure(v2e_probe *probe, double (Probe::*method)(), double *rate, const char *name) {
    return guard([&] {
        require(probe, "probe");
        require(rate, name);
        *rate = (probe->probe.*method)();
    });
}

} // namespace

v2e_status v2e_probe_open(const v2e_probe_options *options, v2e_probe **probe) {
    return guard([&] {
        require(probe, "probe");
        *probe = nullptr;
        *probe = new v2e_probe{Probe(read_options(options))};
    });
}

v2e_status v2e_probe_bandwidth(v2e_probe *probe, double *bytes_per_second) {
    return measure(probe, &Probe::bandwidth, bytes_per_second, "bytes_per_second");
}

v2e_status v2e_probe_int8(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, &Probe::int8_peak, operations_per_second, "operations_per_second");
}

v2e_status v2e_probe_fp32(v2e_probe *probe, double *operations_per_second) {
    return measure(probe, &Probe::fp32_peak, operations_per_second, "operations_per_second");
}

void v2e_probe_close(v2e_probe *probe) {
    delete probe;
}
