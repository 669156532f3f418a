#include "cuda/driver_api.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

namespace v2e::cuda {
namespace {

constexpr Result NO_DEVICE = 100;

std::string driver_name() {
    const std::string given = environment("VALLEY2_CUDA_DRIVER");
    if (!given.empty())
        return given;
#if defined(_WIN32)
    return "nvcuda.dll";
#else
    return "libcuda.so.1";
#endif
}

std::string error_name(const Driver &driver, Result result) {
    const char *name = nullptr;
    if (driver.cuGetErrorName == nullptr || driver.cuGetErrorName(result, &name) != SUCCESS || name == nullptr)
        return "error " + std::to_string(result);
    return name;
}

} // namespace

Driver open_driver() {
    Driver driver;
    const std::string name = driver_name();
    const SharedLibrary library(name);
    if (!library.open()) {
        driver.reason = "there is no NVIDIA driver (" + library.error() + ")";
        return driver;
    }
#define V2E_RESOLVE(name, parameters)                                                                                  \
    driver.name = reinterpret_cast<decltype(driver.name)>(library.symbol(#name));                                      \
    if (driver.name == nullptr) {                                                                                      \
        driver.reason = "the NVIDIA driver is too old: it has no " #name;                                              \
        return driver;                                                                                                 \
    }
    V2E_CUDA_FUNCTIONS(V2E_RESOLVE)
#undef V2E_RESOLVE
    const Result result = driver.cuInit(0);
    if (result == NO_DEVICE)
        driver.reason = "the NVIDIA driver finds no GPU";
    else if (result != SUCCESS)
        driver.reason = "the NVIDIA driver does not start (cuInit: " + error_name(driver, result) + ")";
    else if (driver.cuDriverGetVersion(&driver.version) != SUCCESS)
        driver.reason = "the NVIDIA driver does not tell its version";
    return driver;
}

void check(const Driver &driver, Result result, const char *call) {
    if (result == SUCCESS)
        return;
    const std::string name = error_name(driver, result);
    if (result == OUT_OF_MEMORY)
        fail(V2E_ERROR_BUDGET,
             "The GPU has not enough memory (%s: %s); use a shorter context, or keep fewer layers on it.", call,
             name.c_str());
    fail(V2E_ERROR_INTERNAL, "The GPU failed in %s: %s.", call, name.c_str());
}

} // namespace v2e::cuda
