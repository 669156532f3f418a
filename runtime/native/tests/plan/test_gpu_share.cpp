// How a GPU is shared, with costs that are made up; whole bundles are tested from Python.
#include "plan/gpu_share.hpp"
#include "tests/check.hpp"

#include <algorithm>
#include <string>

using namespace v2e;

namespace {

constexpr uint64_t MIB = uint64_t{1} << 20;
constexpr size_t LAYERS = 10;
constexpr uint64_t LAYER = 100 * MIB, ENGINES = 400 * MIB;

v2e_memory_plan made_up_plan(const v2e_memory_options &options) {
    v2e_memory_plan plan{};
    plan.gpu_memory_bytes = options.gpu_memory;
    const auto peak = [&](uint64_t layers) {
        const uint64_t decoder = layers * LAYER;
        if (options.keep_vision != 0)
            return decoder + ENGINES;
        return std::max(decoder, ENGINES + (options.offload_weights != 0 ? 0 : decoder));
    };
    uint64_t layers = options.device == V2E_DEVICE_CPU ? 0 : options.gpu_layers != 0 ? options.gpu_layers : LAYERS;
    while (options.gpu_layers == 0 && layers > 0 && peak(layers) > options.gpu_memory)
        --layers;
    if (layers == 0 && options.device == V2E_DEVICE_CUDA)
        fail(V2E_ERROR_BUDGET, "Not a single layer fits.");
    plan.gpu_layers = static_cast<uint32_t>(layers);
    plan.gpu_bytes = peak(layers);
    return plan;
}

GpuShare share(uint64_t memory, v2e_device device = V2E_DEVICE_CUDA, uint32_t layers = 0) {
    v2e_memory_options options{};
    options.struct_size = sizeof options;
    options.device = device;
    options.gpu_memory = memory;
    options.gpu_layers = layers;
    return share_gpu(LAYERS, options, made_up_plan);
}

} // namespace

TEST_CASE("on a GPU everything stays where everything fits") {
    const GpuShare whole = share(LAYERS * LAYER + ENGINES);
    CHECK(whole.options.keep_vision == 1);
    CHECK(whole.options.offload_weights == 0);
    CHECK(whole.plan.gpu_layers == LAYERS);
    CHECK(std::string(whole.options.changes) == "everything stays");
}

TEST_CASE("the decoder leaves a GPU for the pictures before a layer goes to the CPU") {
    const GpuShare moving = share(LAYERS * LAYER);
    CHECK(moving.options.offload_weights == 1);
    CHECK(moving.plan.gpu_layers == LAYERS);
    CHECK(std::string(moving.options.changes) ==
          "vision engines are freed after use, the decoder leaves while pictures are encoded");
    const GpuShare fewer = share(LAYERS * LAYER - 1);
    CHECK(fewer.plan.gpu_layers == LAYERS - 1);
    CHECK(doctest::String(fewer.options.changes) == doctest::Contains("9 of 10 layers, "));
}

TEST_CASE("layers that were asked for are all that have to fit") {
    const GpuShare named = share(2 * LAYER + ENGINES, V2E_DEVICE_CUDA, 2);
    CHECK(named.options.keep_vision == 1);
    CHECK(std::string(named.options.changes) == "2 of 10 layers, everything stays");
}

TEST_CASE("a decoder that may be anywhere leaves the GPU to the vision engines") {
    const GpuShare engines = share(ENGINES, V2E_DEVICE_AUTO);
    CHECK(doctest::String(engines.options.changes) == doctest::Contains("layers"));
    const GpuShare alone = share(ENGINES, V2E_DEVICE_CPU);
    CHECK(alone.plan.gpu_layers == 0);
    CHECK(std::string(alone.options.changes) == "everything stays");
}

TEST_CASE("a GPU that is too small is refused with what would fit") {
    CHECK_FAILS(V2E_ERROR_BUDGET,
                "100.0 MiB of the GPU's memory do not suffice: the least that the vision engines and a layer of the "
                "decoder need is 400.0 MiB; 448MiB would fit.",
                share(100 * MIB));
    CHECK_FAILS(V2E_ERROR_BUDGET, "that the vision engines need is 400.0 MiB; 448MiB would fit.",
                share(ENGINES - 1, V2E_DEVICE_AUTO));
    CHECK(share(448 * MIB).plan.gpu_layers == 4);
}

TEST_CASE("without a GPU there is nothing to share") {
    const GpuShare none = share(0, V2E_DEVICE_AUTO, 3);
    CHECK(std::string(none.options.changes).empty());
    CHECK(none.options.keep_vision == 0);
}
