// What the machine can do at most, measured in the same minute as the kernels.
#pragma once

#include "platform.hpp"
#include "thread_pool.hpp"

#include <cstdint>

namespace v2e {

// Bytes a second that the threads read together from a buffer far larger than the caches.
double measure_read_bandwidth(ThreadPool &pool, const AlignedBuffer<uint8_t> &buffer);

// int8 operations a second (2 for a multiplication with an addition) of all threads; 0 without AVX-512 VNNI.
double measure_int8_peak(ThreadPool &pool);

// One thread's share of the peak: runs `rounds` rounds and returns the operations done.
double run_int8_products(uint64_t rounds);

double seconds_now();

} // namespace v2e
