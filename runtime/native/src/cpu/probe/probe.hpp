// What the machine can do at most at this moment: the limits of which a measurement's figures are shares.
#pragma once

#include "base/platform.hpp"
#include "base/thread_pool.hpp"
#include "cpu/probe/probe_kernels.hpp"
#include "valley2_parts.h"

#include <cstdint>

namespace v2e {

// The methods mean what valley2.h says of the functions of the same names. Each takes some milliseconds.
class Probe {
  public:
    explicit Probe(const v2e_probe_options &options);

    double bandwidth();
    double int8_peak();
    double fp32_peak();

    unsigned threads() const { return pool_.threads(); }

  private:
    double peak(double (*multiply)(uint64_t rounds));

    const ProbeKernels &kernels_;
    ThreadPool pool_;
    AlignedBuffer<uint8_t> block_; // read by bandwidth(), which makes it
};

} // namespace v2e
