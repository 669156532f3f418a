#include "base/platform.hpp"

#include "base/error.hpp"
#include "base/platform_internal.hpp"

#include <cstdlib>

namespace v2e {

std::string environment(const char *name) {
    const char *value = std::getenv(name);
    return value == nullptr ? std::string() : value;
}

void fail_changed(const std::string &path) {
    fail(V2E_ERROR_BUNDLE, "The file '%s' was changed after it had been checked; check the bundle again.",
         path.c_str());
}

} // namespace v2e
