// NVIDIA's driver API, as far as the core uses it, opened while the program runs: neither header nor library of CUDA is
// needed to build or to start. Names and meanings are those of the CUDA Driver API reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace v2e::cuda {

using Result = int;
using DeviceNumber = int;
using Address = uint64_t; // an address in the device's memory
struct ContextTag;
struct ModuleTag;
struct FunctionTag;
struct StreamTag;
struct EventTag;
struct GraphTag;
struct GraphExecTag;
using Context = ContextTag *;
using Module = ModuleTag *;
using Function = FunctionTag *;
using Stream = StreamTag *;
using Event = EventTag *;
using Graph = GraphTag *;
using GraphExec = GraphExecTag *;

constexpr Result SUCCESS = 0;
constexpr Result OUT_OF_MEMORY = 2;
constexpr int ATTRIBUTE_MULTIPROCESSORS = 16;
constexpr int ATTRIBUTE_MAJOR = 75;
constexpr int ATTRIBUTE_MINOR = 76;
constexpr unsigned STREAM_NON_BLOCKING = 1;
constexpr unsigned EVENT_DISABLE_TIMING = 2;
constexpr int CAPTURE_THREAD_LOCAL = 1;

#if defined(_WIN32) && !defined(_WIN64)
#define V2E_CUDAAPI __stdcall
#else
#define V2E_CUDAAPI
#endif

// Every function of the driver that is used: name, and parameters.
#define V2E_CUDA_FUNCTIONS(call)                                                                                       \
    call(cuInit, (unsigned flags)) call(cuDriverGetVersion, (int *version)) call(cuDeviceGetCount, (int *count)) call( \
        cuDeviceGet, (DeviceNumber * device, int ordinal)) call(cuDeviceGetName,                                       \
                                                                (char *name, int size, DeviceNumber device))           \
        call(cuDeviceGetAttribute, (int *value, int attribute, DeviceNumber device)) call(                             \
            cuDevicePrimaryCtxRetain, (Context * context, DeviceNumber device)) call(cuDevicePrimaryCtxRelease_v2,     \
                                                                                     (DeviceNumber device))            \
            call(cuCtxPushCurrent_v2, (Context context)) call(cuCtxPopCurrent_v2, (Context * context)) call(           \
                cuMemGetInfo_v2, (size_t *free_bytes, size_t *total_bytes))                                            \
                call(cuModuleLoadData, (Module * module, const void *image)) call(                                     \
                    cuModuleUnload,                                                                                    \
                    (Module module)) call(cuModuleGetFunction, (Function * function, Module module, const char *name)) \
                    call(cuMemAlloc_v2, (Address * address, size_t bytes)) call(cuMemFree_v2, (Address address)) call( \
                        cuMemHostAlloc,                                                                                \
                        (void **memory, size_t bytes, unsigned flags)) call(cuMemFreeHost, (void *memory))             \
                        call(cuMemcpyHtoD_v2, (Address target, const void *source, size_t bytes)) call(                \
                            cuMemcpyHtoDAsync_v2, (Address target, const void *source, size_t bytes, Stream stream))   \
                            call(cuMemcpyDtoHAsync_v2, (void *target, Address source, size_t bytes, Stream stream))    \
                                call(cuMemsetD8Async,                                                                  \
                                     (Address target, unsigned char value, size_t bytes,                               \
                                      Stream stream)) call(cuStreamCreate, (Stream * stream, unsigned flags))          \
                                    call(cuStreamDestroy_v2, (Stream stream)) call(                                    \
                                        cuStreamSynchronize,                                                           \
                                        (Stream stream)) call(cuEventCreate, (Event * event, unsigned flags))          \
                                        call(cuEventDestroy_v2, (Event event)) call(                                   \
                                            cuEventRecord,                                                             \
                                            (Event event, Stream stream)) call(cuEventSynchronize, (Event event))      \
                                            call(cuEventElapsedTime, (float *milliseconds, Event begin, Event end))    \
                                                call(cuLaunchKernel,                                                   \
                                                     (Function function, unsigned grid_x, unsigned grid_y,             \
                                                      unsigned grid_z, unsigned block_x, unsigned block_y,             \
                                                      unsigned block_z, unsigned shared_bytes, Stream stream,          \
                                                      void **parameters, void **extra))                                \
                                                    call(cuStreamBeginCapture_v2, (Stream stream, int mode))           \
                                                        call(cuStreamEndCapture, (Stream stream, Graph * graph)) call( \
                                                            cuGraphInstantiateWithFlags,                               \
                                                            (GraphExec * executable, Graph graph,                      \
                                                             unsigned long long flags))                                \
                                                            call(cuGraphLaunch, (GraphExec executable, Stream stream)) \
                                                                call(cuGraphExecDestroy, (GraphExec executable))       \
                                                                    call(cuGraphDestroy, (Graph graph))                \
                                                                        call(cuGetErrorName,                           \
                                                                             (Result error, const char **name))

struct Driver {
#define V2E_DECLARE(name, parameters) Result(V2E_CUDAAPI *name) parameters = nullptr;
    V2E_CUDA_FUNCTIONS(V2E_DECLARE)
#undef V2E_DECLARE

    int version = 0;    // the newest CUDA that the driver knows: 1000 * major + 10 * minor
    std::string reason; // why there is no usable driver, a part of a sentence; empty: there is one
};

// Opens the driver and calls cuInit. Another library than libcuda.so.1 or nvcuda.dll is taken from
// $VALLEY2_CUDA_DRIVER.
Driver open_driver();

// Fails when a call did, naming it: out of memory with V2E_ERROR_BUDGET, all else with V2E_ERROR_INTERNAL.
void check(const Driver &driver, Result result, const char *call);

// driver.call(arguments), checked.
#define V2E_CUDA(driver, call, ...) ::v2e::cuda::check(driver, (driver).call(__VA_ARGS__), #call)

} // namespace v2e::cuda
