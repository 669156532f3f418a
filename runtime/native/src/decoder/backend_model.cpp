#include "decoder/backend_model.hpp"

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "bundle/manifest.hpp"
#include "decoder/backend_executor.hpp"

#include <algorithm>
#include <cstdio>

namespace v2e {
namespace {

DecoderSizes read_sizes(const std::string &directory) {
    const Manifest manifest(directory + "/..");
    return read_decoder_sizes(manifest.architecture().at("decoder"), directory + "/../valley2.json: decoder");
}

void refuse_options_of_kernels(const v2e_decoder_options &options, const std::string &name) {
    const bool is_default = options.isa == V2E_ISA_AUTO && options.activations == V2E_ACTIVATIONS_AUTO &&
                            options.device <= V2E_DEVICE_CPU && options.gpu_layers == 0 && options.gpu_memory == 0;
    if (!is_default)
        fail(V2E_ERROR_INPUT,
             "isa, activations, device and the GPU's options are of the core's own kernels; the decoder is computed by "
             "%s, so leave them at 0.",
             name.c_str());
}

} // namespace

void require_own_precision(const BackendTable &table, uint32_t kv_precision) {
    if (kv_precision != V2E_KV_AUTO)
        fail(V2E_ERROR_INPUT, "kv_precision must be auto: %s keeps keys and values in a precision of its own.",
             table.name().c_str());
}

BackendModel::BackendModel(const std::string &directory, const v2e_decoder_options &options)
    : table_(options.backend, "backend"), threads_(chosen_threads(options.threads)), sizes_(read_sizes(directory)),
      embeddings_(directory, options.embeddings_stamp, sizes_) {
    refuse_options_of_kernels(options, table_.name());
}

v2e_decoder_description BackendModel::describe() const {
    const v2e_backend_cost cost =
        table_.cost(V2E_COMPONENT_DECODER, BackendExecutor::DEFAULT_CHUNK, sizes_.max_context);
    const bool on_gpu = cost.gpu_weight_bytes > 0;
    v2e_decoder_description description = describe_sizes(sizes_);
    description.threads = threads_;
    description.weight_bytes = cost.weight_bytes + cost.gpu_weight_bytes;
    description.mapped_bytes = embeddings_.mapped_bytes();
    description.device = on_gpu ? V2E_DEVICE_CUDA : V2E_DEVICE_CPU;
    description.gpu_layers = on_gpu ? description.layers : 0;
    description.gpu_bytes = cost.gpu_weight_bytes;
    std::snprintf(description.device_name, sizeof description.device_name, "%s", table_.name().c_str());
    return description;
}

std::unique_ptr<Executor> BackendModel::make_executor(uint32_t kv_precision, size_t) const {
    require_own_precision(table_, kv_precision);
    return std::make_unique<BackendExecutor>(table_, sizes_);
}

void BackendModel::require_savable() const {
    fail(V2E_ERROR_INPUT, "A session whose decoder is computed by %s can be neither saved nor loaded.",
         table_.name().c_str());
}

} // namespace v2e
