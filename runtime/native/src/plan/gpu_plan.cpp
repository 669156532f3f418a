#include "plan/gpu_plan.hpp"

#include "base/error.hpp"
#include "decoder/native_model.hpp"

#include <algorithm>
#include <string>

namespace v2e {
namespace {

uint64_t usable_bytes(const v2e_memory_options &options, const DeviceKind &devices) {
    if (options.gpu_memory != 0)
        return options.gpu_memory;
    std::string reason;
    const uint64_t bytes = devices.free_bytes(reason);
    if (!reason.empty() && options.device == V2E_DEVICE_CUDA)
        fail(V2E_ERROR_INPUT, "There is no GPU to plan for: %s; say how much memory one has.", reason.c_str());
    return bytes;
}

void plan_phases(const v2e_memory_options &options, const GpuVision &vision, uint64_t context_bytes, GpuPlan &plan) {
    const DevicePlan &decoder = plan.decoder;
    const bool on_gpu = decoder.layers > 0, encodes = vision.siglip > 0;
    plan.context = (on_gpu || encodes ? context_bytes : 0) + vision.library;
    const uint64_t session = decoder.kv_bytes + decoder.scratch_bytes;
    // Engines that stay keep the memory that they work in.
    const uint64_t kept = vision.siglip + vision.projector + vision.eagle + vision.siglip_work + vision.eagle_work;
    // Beside the engines at work: weights that stay, and what earlier turns of a conversation left.
    const uint64_t beside = plan.context + (options.offload_weights != 0 ? 0 : decoder.weight_bytes) +
                            (options.conversation != 0 ? session : 0);
    const bool keep_vision = options.keep_vision != 0;
    if (encodes)
        plan.tiles = beside + (keep_vision ? kept : vision.siglip + vision.projector + vision.siglip_work);
    if (vision.eagle > 0)
        plan.eagle = beside + (keep_vision ? kept : vision.eagle + vision.eagle_work);
    plan.answer = plan.context + decoder.weight_bytes + session + (keep_vision ? kept : 0);
    if (!on_gpu && !encodes)
        plan.answer = 0;
}

GpuPlan plan_layers(const Decoder *decoder, const DevicePlan &fixed, size_t layers, const v2e_memory_options &options,
                    uint64_t context, const GpuVision &vision, const DeviceKind &devices) {
    GpuPlan plan;
    plan.decoder = fixed;
    if (decoder != nullptr && layers > 0) {
        const size_t chunk = options.prefill_chunk == 0 ? devices.default_chunk() : options.prefill_chunk;
        plan.decoder = devices.plan(*decoder, chosen_kv_precision(*decoder, options.kv_precision),
                                    std::min<uint64_t>(chunk, context), context, layers);
    }
    plan_phases(options, vision, devices.context_bytes(), plan);
    return plan;
}

} // namespace

uint64_t GpuPlan::peak() const {
    return std::max({tiles, eagle, answer});
}

void GpuPlan::write(const GpuVision &vision, v2e_memory_plan &plan) const {
    plan.gpu_layers = static_cast<uint32_t>(decoder.layers);
    plan.gpu_weight_bytes = decoder.weight_bytes;
    plan.gpu_kv_bytes = decoder.kv_bytes;
    plan.gpu_scratch_bytes = decoder.scratch_bytes;
    plan.gpu_context_bytes = context;
    plan.gpu_siglip_bytes = vision.siglip;
    plan.gpu_projector_bytes = vision.projector;
    plan.gpu_eagle_bytes = vision.eagle;
    plan.gpu_siglip_work_bytes = vision.siglip_work;
    plan.gpu_eagle_work_bytes = vision.eagle_work;
    plan.gpu_tiles_phase_bytes = tiles;
    plan.gpu_eagle_phase_bytes = eagle;
    plan.gpu_answer_phase_bytes = answer;
    plan.gpu_bytes = peak();
    plan.gpu_memory_bytes = memory;
}

GpuPlan plan_gpu(const Decoder *decoder, const DevicePlan &fixed, const v2e_memory_options &options, uint64_t context,
                 const GpuVision &vision, const DeviceKind &devices) {
    if (options.device > V2E_DEVICE_CUDA)
        fail(V2E_ERROR_INPUT, "device is %u, which is no v2e_device.", static_cast<unsigned>(options.device));
    const bool may_move = options.device != V2E_DEVICE_CPU && decoder != nullptr;
    if (!may_move && fixed.layers == 0 && vision.siglip == 0)
        return {};
    const uint64_t memory = usable_bytes(options, devices);
    const size_t all = may_move ? decoder->config().layers : 0;
    const bool named = all > 0 && options.gpu_layers > 0;
    size_t layers = named ? std::min<size_t>(options.gpu_layers, all) : all;
    GpuPlan plan = plan_layers(decoder, fixed, layers, options, context, vision, devices);
    while (!named && layers > 0 && plan.peak() > memory)
        plan = plan_layers(decoder, fixed, --layers, options, context, vision, devices);
    plan.memory = memory;
    if (options.device == V2E_DEVICE_CUDA && may_move && layers == 0)
        fail(V2E_ERROR_BUDGET, "Not a single layer with its KV cache of %llu positions fits %llu MiB of the GPU%s.",
             static_cast<unsigned long long>(context), static_cast<unsigned long long>(memory >> 20),
             vision.siglip > 0 ? " beside the vision engines" : "");
    return plan;
}

} // namespace v2e
