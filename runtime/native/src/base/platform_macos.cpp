#include "base/platform.hpp"
#include "base/posix.hpp"

#include <algorithm>
#include <sys/sysctl.h>
#include <thread>

namespace v2e {

FileTimes file_times(const struct stat &status) {
    return {nanoseconds(status.st_mtimespec), nanoseconds(status.st_ctimespec)};
}

void report_lost_page(uintptr_t) {}

void return_free_memory() noexcept {}

unsigned usable_threads() {
    return std::max(1u, std::thread::hardware_concurrency());
}

bool has_arm_dot_product() {
#if defined(__aarch64__)
    int present = 0;
    size_t size = sizeof present;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#else
    return false;
#endif
}

} // namespace v2e
