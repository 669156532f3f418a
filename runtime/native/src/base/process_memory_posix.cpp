#include "base/process_memory.hpp"

#include <cstdio>
#include <sys/resource.h>
#include <unistd.h>

namespace v2e {

uint64_t resident_bytes() {
    std::FILE *file = std::fopen("/proc/self/statm", "r"); // Linux alone has it
    if (file == nullptr)
        return peak_resident_bytes();
    unsigned long long all = 0, resident = 0; // pages
    const int fields = std::fscanf(file, "%llu %llu", &all, &resident);
    std::fclose(file);
    return fields == 2 ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

uint64_t peak_resident_bytes() {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
#if defined(__APPLE__)
    return static_cast<uint64_t>(usage.ru_maxrss);
#else
    return static_cast<uint64_t>(usage.ru_maxrss) << 10;
#endif
}

} // namespace v2e
