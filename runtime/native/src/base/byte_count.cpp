#include "base/byte_count.hpp"

#include <cstdio>

namespace v2e {

std::string format_bytes(uint64_t count) {
    char text[32];
    auto size = static_cast<double>(count);
    if (count < 1024) {
        std::snprintf(text, sizeof text, "%.0f B", size);
        return text;
    }
    constexpr const char *UNITS[] = {"KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    for (size /= 1024; size >= 1024 && unit + 1 < sizeof UNITS / sizeof UNITS[0]; size /= 1024)
        ++unit;
    std::snprintf(text, sizeof text, "%.1f %s", size, UNITS[unit]);
    return text;
}

uint64_t fitting_mebibytes(uint64_t bytes) {
    constexpr uint64_t MEBIBYTE = 1 << 20, STEP = 64 * MEBIBYTE;
    return (bytes / STEP + (bytes % STEP != 0 ? 1 : 0)) * (STEP / MEBIBYTE);
}

} // namespace v2e
