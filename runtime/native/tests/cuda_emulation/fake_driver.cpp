// A libcuda.so.1 for tests: one device, whose kernels are those of cuda_emulation.hpp. It takes every module that
// begins like a fatbin. Environment variables change what it is:
//   V2E_FAKE_CUDA_VERSION     of the driver, as cuDriverGetVersion gives it; 13000
//   V2E_FAKE_CUDA_DEVICES     0 is a driver that finds none; 1
//   V2E_FAKE_CUDA_CAPABILITY  ten times the major number plus the minor one; 86
//   V2E_FAKE_CUDA_MEMORY      bytes of the device; 1 GiB
//   V2E_FAKE_CUDA_FAILS       name of a call that fails with CUDA_ERROR_UNKNOWN
//   V2E_FAKE_CUDA_LOG         a file that gets a line for every call: its name, for launches the kernel's name as well
// Memory of the device lies between pages that must not be touched.
#include "tests/cuda_emulation/cuda_emulation.hpp"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <vector>

#define V2E_FAKE extern "C" __attribute__((visibility("default"))) int

namespace {

constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200;
constexpr int NOT_FOUND = 500, UNKNOWN = 999;
constexpr uint32_t FATBIN_MAGIC = 0xba55ed50;
constexpr size_t PAGE_BYTES = 4096;

std::recursive_mutex mutex;

long setting(const char *name, long otherwise) {
    const char *text = std::getenv(name);
    return text == nullptr ? otherwise : std::atol(text);
}

void record(const std::string &line) {
    const char *path = std::getenv("V2E_FAKE_CUDA_LOG");
    if (path == nullptr)
        return;
    if (std::FILE *file = std::fopen(path, "a")) {
        std::fprintf(file, "%s\n", line.c_str());
        std::fclose(file);
    }
}

// Notes a call; returns whether it is to fail.
bool fails(const char *name) {
    record(name);
    const char *wanted = std::getenv("V2E_FAKE_CUDA_FAILS");
    return wanted != nullptr && std::string(wanted) == name;
}

struct Allocation {
    std::byte *pages;
    size_t page_bytes;
    size_t bytes;
};

struct State {
    std::map<uintptr_t, Allocation> allocations;
    size_t used = 0;
};
State &state() {
    static State one;
    return one;
}

using Work = std::function<void()>;
struct Graph {
    std::vector<Work> work;
};
struct Stream {
    Graph *captured = nullptr;
};

// Now, or when the graph is launched.
int enqueue(void *stream, Work work) {
    auto *target = static_cast<Stream *>(stream);
    if (target != nullptr && target->captured != nullptr)
        target->captured->work.push_back(std::move(work));
    else
        work();
    return SUCCESS;
}

} // namespace

#define V2E_BEGIN(name)                                                                                                \
    const std::lock_guard<std::recursive_mutex> lock(mutex);                                                           \
    if (fails(#name))                                                                                                  \
    return UNKNOWN

V2E_FAKE cuInit(unsigned) {
    V2E_BEGIN(cuInit);
    return setting("V2E_FAKE_CUDA_DEVICES", 1) == 0 ? NO_DEVICE : SUCCESS;
}
V2E_FAKE cuDriverGetVersion(int *version) {
    V2E_BEGIN(cuDriverGetVersion);
    *version = static_cast<int>(setting("V2E_FAKE_CUDA_VERSION", 13000));
    return SUCCESS;
}
V2E_FAKE cuDeviceGetCount(int *count) {
    V2E_BEGIN(cuDeviceGetCount);
    *count = static_cast<int>(setting("V2E_FAKE_CUDA_DEVICES", 1));
    return SUCCESS;
}
V2E_FAKE cuDeviceGet(int *device, int ordinal) {
    V2E_BEGIN(cuDeviceGet);
    *device = ordinal;
    return SUCCESS;
}
V2E_FAKE cuDeviceGetName(char *name, int size, int) {
    V2E_BEGIN(cuDeviceGetName);
    std::snprintf(name, static_cast<size_t>(size), "Emulated GPU");
    return SUCCESS;
}
V2E_FAKE cuDeviceGetAttribute(int *value, int attribute, int) {
    V2E_BEGIN(cuDeviceGetAttribute);
    const int capability = static_cast<int>(setting("V2E_FAKE_CUDA_CAPABILITY", 86));
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 2 : 0;
    return SUCCESS;
}
V2E_FAKE cuDevicePrimaryCtxRetain(void **context, int) {
    V2E_BEGIN(cuDevicePrimaryCtxRetain);
    *context = &state();
    return SUCCESS;
}
V2E_FAKE cuDevicePrimaryCtxRelease_v2(int) {
    V2E_BEGIN(cuDevicePrimaryCtxRelease_v2);
    return SUCCESS;
}
V2E_FAKE cuCtxPushCurrent_v2(void *) {
    V2E_BEGIN(cuCtxPushCurrent_v2);
    return SUCCESS;
}
V2E_FAKE cuCtxPopCurrent_v2(void **context) {
    V2E_BEGIN(cuCtxPopCurrent_v2);
    *context = &state();
    return SUCCESS;
}
V2E_FAKE cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    V2E_BEGIN(cuMemGetInfo_v2);
    *total = static_cast<size_t>(setting("V2E_FAKE_CUDA_MEMORY", 1L << 30));
    *free_bytes = *total - std::min(*total, state().used);
    return SUCCESS;
}
V2E_FAKE cuModuleLoadData(void **module, const void *image) {
    V2E_BEGIN(cuModuleLoadData);
    uint32_t magic = 0;
    std::memcpy(&magic, image, sizeof magic);
    *module = &state();
    return magic == FATBIN_MAGIC ? SUCCESS : INVALID_IMAGE;
}
V2E_FAKE cuModuleUnload(void *) {
    V2E_BEGIN(cuModuleUnload);
    return SUCCESS;
}
V2E_FAKE cuModuleGetFunction(void **function, void *, const char *name) {
    V2E_BEGIN(cuModuleGetFunction);
    *function = const_cast<emulation::Kernel *>(emulation::find_kernel(name));
    return *function == nullptr ? NOT_FOUND : SUCCESS;
}
V2E_FAKE cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    V2E_BEGIN(cuMemAlloc_v2);
    if (bytes == 0)
        return INVALID_VALUE;
    if (state().used + bytes > static_cast<size_t>(setting("V2E_FAKE_CUDA_MEMORY", 1L << 30)))
        return OUT_OF_MEMORY;
    const size_t rounded = (bytes + 15) / 16 * 16, inner = (rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    void *pages = mmap(nullptr, inner + 2 * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return OUT_OF_MEMORY;
    auto *first = static_cast<std::byte *>(pages) + PAGE_BYTES;
    mprotect(first, inner, PROT_READ | PROT_WRITE);
    std::memset(first, 0xff, inner); // NaN to whoever reads what was not written
    *address = reinterpret_cast<uintptr_t>(first + inner - rounded);
    state().allocations[*address] = {static_cast<std::byte *>(pages), inner + 2 * PAGE_BYTES, bytes};
    state().used += bytes;
    return SUCCESS;
}
V2E_FAKE cuMemFree_v2(uint64_t address) {
    V2E_BEGIN(cuMemFree_v2);
    const auto found = state().allocations.find(address);
    if (found == state().allocations.end())
        return INVALID_VALUE;
    munmap(found->second.pages, found->second.page_bytes);
    state().used -= found->second.bytes;
    state().allocations.erase(found);
    return SUCCESS;
}
V2E_FAKE cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    V2E_BEGIN(cuMemHostAlloc);
    *memory = std::malloc(bytes);
    return *memory == nullptr ? OUT_OF_MEMORY : SUCCESS;
}
V2E_FAKE cuMemFreeHost(void *memory) {
    V2E_BEGIN(cuMemFreeHost);
    std::free(memory);
    return SUCCESS;
}
V2E_FAKE cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t bytes) {
    V2E_BEGIN(cuMemcpyHtoD_v2);
    std::memcpy(reinterpret_cast<void *>(target), source, bytes);
    return SUCCESS;
}
V2E_FAKE cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, void *stream) {
    V2E_BEGIN(cuMemcpyHtoDAsync_v2);
    return enqueue(stream, [=] { std::memcpy(reinterpret_cast<void *>(target), source, bytes); });
}
V2E_FAKE cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, void *stream) {
    V2E_BEGIN(cuMemcpyDtoHAsync_v2);
    return enqueue(stream, [=] { std::memcpy(target, reinterpret_cast<const void *>(source), bytes); });
}
V2E_FAKE cuMemsetD8Async(uint64_t target, unsigned char value, size_t bytes, void *stream) {
    V2E_BEGIN(cuMemsetD8Async);
    return enqueue(stream, [=] { std::memset(reinterpret_cast<void *>(target), value, bytes); });
}
V2E_FAKE cuStreamCreate(void **stream, unsigned) {
    V2E_BEGIN(cuStreamCreate);
    *stream = new Stream;
    return SUCCESS;
}
V2E_FAKE cuStreamDestroy_v2(void *stream) {
    V2E_BEGIN(cuStreamDestroy_v2);
    delete static_cast<Stream *>(stream);
    return SUCCESS;
}
V2E_FAKE cuStreamSynchronize(void *) {
    V2E_BEGIN(cuStreamSynchronize);
    return SUCCESS;
}
V2E_FAKE cuEventCreate(void **event, unsigned) {
    V2E_BEGIN(cuEventCreate);
    *event = &state();
    return SUCCESS;
}
V2E_FAKE cuEventDestroy_v2(void *) {
    V2E_BEGIN(cuEventDestroy_v2);
    return SUCCESS;
}
V2E_FAKE cuEventRecord(void *, void *) {
    V2E_BEGIN(cuEventRecord);
    return SUCCESS;
}
V2E_FAKE cuEventSynchronize(void *) {
    V2E_BEGIN(cuEventSynchronize);
    return SUCCESS;
}
V2E_FAKE cuEventElapsedTime(float *milliseconds, void *, void *) {
    V2E_BEGIN(cuEventElapsedTime);
    *milliseconds = 1.0f;
    return SUCCESS;
}
V2E_FAKE cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **parameters,
                        void **extra) {
    V2E_BEGIN(cuLaunchKernel);
    const auto *kernel = static_cast<const emulation::Kernel *>(function);
    if (kernel == nullptr || shared != 0 || extra != nullptr || grid_x == 0 || grid_y == 0 || grid_z == 0 ||
        grid_y > 65535 || grid_z > 65535)
        return INVALID_VALUE;
    record(std::string("launch ") + kernel->name);
    const auto *first = static_cast<const std::byte *>(parameters[0]);
    const std::vector<std::byte> arguments(first, first + kernel->argument_bytes);
    return enqueue(stream, [=] {
        emulation::launch(*kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, arguments.data());
    });
}
V2E_FAKE cuStreamBeginCapture_v2(void *stream, int) {
    V2E_BEGIN(cuStreamBeginCapture_v2);
    static_cast<Stream *>(stream)->captured = new Graph;
    return SUCCESS;
}
V2E_FAKE cuStreamEndCapture(void *stream, void **graph) {
    V2E_BEGIN(cuStreamEndCapture);
    *graph = static_cast<Stream *>(stream)->captured;
    static_cast<Stream *>(stream)->captured = nullptr;
    return *graph == nullptr ? INVALID_VALUE : SUCCESS;
}
V2E_FAKE cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    V2E_BEGIN(cuGraphInstantiateWithFlags);
    *executable = new Graph(*static_cast<Graph *>(graph));
    return SUCCESS;
}
V2E_FAKE cuGraphLaunch(void *executable, void *) {
    V2E_BEGIN(cuGraphLaunch);
    for (const Work &work : static_cast<Graph *>(executable)->work)
        work();
    return SUCCESS;
}
V2E_FAKE cuGraphExecDestroy(void *executable) {
    V2E_BEGIN(cuGraphExecDestroy);
    delete static_cast<Graph *>(executable);
    return SUCCESS;
}
V2E_FAKE cuGraphDestroy(void *graph) {
    V2E_BEGIN(cuGraphDestroy);
    delete static_cast<Graph *>(graph);
    return SUCCESS;
}
V2E_FAKE cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == NO_DEVICE   ? "CUDA_ERROR_NO_DEVICE"
            : error == UNKNOWN     ? "CUDA_ERROR_UNKNOWN"
                                   : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
