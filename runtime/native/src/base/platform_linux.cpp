#include "base/platform.hpp"
#include "base/posix.hpp"

#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <sched.h>
#include <string_view>
#include <thread>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace v2e {
namespace {

// Processors that the control group may use, rounded up; 0 when it has no quota.
unsigned quota_processors() {
    std::FILE *file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file == nullptr)
        return 0;
    unsigned long long quota = 0, period = 0; // microseconds; a quota of "max" is not read as a number
    const int fields = std::fscanf(file, "%llu %llu", &quota, &period);
    std::fclose(file);
    return fields == 2 && period > 0 ? static_cast<unsigned>((quota + period - 1) / period) : 0;
}

// Finds the address in the list of the process's mappings, and names the file that it was mapped from.
class LostPageReport {
  public:
    explicit LostPageReport(uintptr_t address) : address_(address) {}

    void write() {
        const FileDescriptor maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        char chunk[512];
        for (ssize_t count; (count = read(maps.get(), chunk, sizeof chunk)) > 0;)
            for (ssize_t i = 0; i < count; ++i)
                take(chunk[i]);
    }

  private:
    void take(char byte) {
        if (byte != '\n') {
            if (size_ < sizeof line_)
                line_[size_++] = byte;
            return;
        }
        const std::string_view line(line_, size_);
        size_ = 0;
        const size_t dash = line.find('-'), path = line.find('/');
        if (dash == line.npos || path == line.npos || dash > path)
            return;
        if (address_ < number(line) || address_ >= number(line.substr(dash + 1)))
            return;
        say("valley2-edge: the file '");
        say(line.substr(path));
        say("' became shorter while it was in use, and the process cannot go on.\n");
    }

    static uintptr_t number(std::string_view text) {
        uintptr_t value = 0;
        for (const char digit : text) {
            if (digit >= '0' && digit <= '9')
                value = value * 16 + static_cast<uintptr_t>(digit - '0');
            else if (digit >= 'a' && digit <= 'f')
                value = value * 16 + static_cast<uintptr_t>(digit - 'a' + 10);
            else
                break;
        }
        return value;
    }

    static void say(std::string_view text) {
        [[maybe_unused]] const ssize_t said = ::write(2, text.data(), text.size());
    }

    uintptr_t address_;
    char line_[4608]; // holds the longest path and what stands before it
    size_t size_ = 0;
};

} // namespace

FileTimes file_times(const struct stat &status) {
    return {nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

void report_lost_page(uintptr_t address) {
    LostPageReport(address).write();
}

void return_free_memory() noexcept {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

unsigned usable_threads() {
    unsigned count = std::max(1u, std::thread::hardware_concurrency());
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        count = static_cast<unsigned>(CPU_COUNT(&set));
    const unsigned quota = quota_processors();
    if (quota > 0)
        count = std::min(count, quota);
    return count;
}

bool has_arm_dot_product() {
#if defined(__aarch64__)
    constexpr unsigned long ASIMD_DOT_PRODUCT = 1ul << 20; // HWCAP_ASIMDDP of the kernel's ABI
    return (getauxval(AT_HWCAP) & ASIMD_DOT_PRODUCT) != 0;
#else
    return false;
#endif
}

} // namespace v2e
