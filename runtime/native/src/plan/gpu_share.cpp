#include "plan/gpu_share.hpp"

#include "base/backend_table.hpp"
#include "base/byte_count.hpp"
#include "base/error.hpp"
#include "bundle/manifest.hpp"
#include "decoder/decoder_sizes.hpp"

#include <cstdint>
#include <cstdio>
#include <optional>
#include <vector>

namespace v2e {
namespace {

bool vision_on_gpu(const v2e_memory_options &options) {
    if (options.vision_backend == nullptr)
        return false;
    const BackendTable table(options.vision_backend, "vision_backend");
    return table.cost(V2E_COMPONENT_SIGLIP, 1, 0).gpu_weight_bytes > 0;
}

std::string words_for(const v2e_memory_options &options, const v2e_memory_plan &plan, size_t layers) {
    std::string text;
    if (plan.gpu_layers == 0 && options.device != V2E_DEVICE_CPU)
        text = "the decoder on the CPU, ";
    else if (plan.gpu_layers > 0 && plan.gpu_layers < layers)
        text = std::to_string(plan.gpu_layers) + " of " + std::to_string(layers) + " layers, ";
    text += options.keep_vision != 0 ? "everything stays" : "vision engines are freed after use";
    if (options.offload_weights != 0)
        text += ", the decoder leaves while pictures are encoded";
    return text;
}

GpuShare share_of(const v2e_memory_options &options, const v2e_memory_plan &plan, const std::string &words) {
    GpuShare share{{}, plan};
    share.options.struct_size = sizeof share.options;
    share.options.keep_vision = options.keep_vision;
    share.options.offload_weights = options.offload_weights;
    std::snprintf(share.options.changes, sizeof share.options.changes, "%s", words.c_str());
    return share;
}

// Names the least memory that would do: with one layer, where any is to be on the GPU.
[[noreturn]] void refuse(v2e_memory_options options, const MemoryPlanner &planner) {
    const bool needs_layer = options.device == V2E_DEVICE_CUDA;
    if (needs_layer)
        options.gpu_layers = 1;
    else
        options.device = V2E_DEVICE_CPU;
    const v2e_memory_plan least = planner(options);
    fail(V2E_ERROR_BUDGET,
         "%s of the GPU's memory do not suffice: the least that the vision engines %sneed is %s; %lluMiB would fit.",
         format_bytes(least.gpu_memory_bytes).c_str(), needs_layer ? "and a layer of the decoder " : "",
         format_bytes(least.gpu_bytes).c_str(), static_cast<unsigned long long>(fitting_mebibytes(least.gpu_bytes)));
}

// From what loses nothing to what loses most.
std::vector<v2e_memory_options> ways_to_share(const v2e_memory_options &wanted) {
    std::vector<v2e_memory_options> ways(2, wanted);
    ways[0].keep_vision = 1;
    ways[1].keep_vision = 0;
    if (wanted.device != V2E_DEVICE_CPU) {
        ways.push_back(ways[1]);
        ways.back().offload_weights = 1;
    }
    return ways;
}

// Nothing when not a single layer fits, or something else does not: the refusal meets that again.
std::optional<v2e_memory_plan> plan_if_possible(const v2e_memory_options &options, const MemoryPlanner &planner) {
    try {
        return planner(options);
    } catch (const Failure &failure) {
        if (failure.status != V2E_ERROR_BUDGET)
            throw;
        return std::nullopt;
    }
}

} // namespace

GpuShare share_gpu(size_t layers, const v2e_memory_options &wanted, const MemoryPlanner &planner) {
    const size_t most = wanted.gpu_layers != 0 ? wanted.gpu_layers : layers;
    const std::vector<v2e_memory_options> ways = ways_to_share(wanted);
    std::optional<GpuShare> fitting;
    for (const v2e_memory_options &options : ways) {
        const std::optional<v2e_memory_plan> plan = plan_if_possible(options, planner);
        if (!plan)
            continue;
        if (plan->gpu_memory_bytes == 0)
            return share_of(wanted, *plan, "");
        if (plan->gpu_bytes > plan->gpu_memory_bytes)
            continue;
        const GpuShare share = share_of(options, *plan, words_for(options, *plan, layers));
        if (wanted.device == V2E_DEVICE_CPU || plan->gpu_layers == most)
            return share;
        if (!fitting || plan->gpu_layers > fitting->plan.gpu_layers)
            fitting = share;
    }
    if (!fitting)
        refuse(ways.back(), planner);
    return *fitting;
}

GpuShare share_gpu(const std::string &bundle_directory, const v2e_memory_options &wanted, const DeviceKind &devices) {
    const auto planner = [&](const v2e_memory_options &options) {
        return plan_memory(bundle_directory, options, devices);
    };
    if (!vision_on_gpu(wanted))
        return share_of(wanted, planner(wanted), "");
    const Manifest manifest(bundle_directory);
    const DecoderSizes sizes = read_decoder_sizes(manifest.architecture().at("decoder"), "The manifest's decoder");
    return share_gpu(sizes.layers, wanted, planner);
}

} // namespace v2e
