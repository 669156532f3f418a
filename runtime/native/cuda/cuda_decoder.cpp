#include "cuda/cuda_decoder.hpp"

#include "base/error.hpp"
#include "cuda/device_plan.hpp"

#include <algorithm>

namespace v2e::cuda {
namespace {

constexpr size_t PLANNED_CONTEXT = 4096; // positions of a session, unless the options say how many

} // namespace

const char *UploadedMatrix::code_name() const {
    switch (precision) {
    case Precision::int4:
        return code == Code::nf4 ? "nf4" : "int4";
    case Precision::int8:
        return "int8";
    case Precision::fp16:
        return "fp16";
    case Precision::fp32:
        break;
    }
    return "fp32";
}

std::unique_ptr<CudaDecoder> CudaDecoder::open(const Decoder &decoder, const v2e_decoder_options &options,
                                               std::string &reason) {
    std::unique_ptr<Device> device(Device::open(reason));
    if (device == nullptr)
        return nullptr;
    const CurrentContext current(*device);
    const DecoderConfig &config = decoder.config();
    size_t layers = std::min<size_t>(options.gpu_layers, config.layers);
    if (layers == 0) {
        const size_t context = options.gpu_context != 0 ? options.gpu_context : PLANNED_CONTEXT;
        const uint64_t free = device->free_bytes();
        const uint64_t most = options.gpu_memory == 0 ? free : std::min<uint64_t>(free, options.gpu_memory);
        const KvPrecision precision = decoder.prefers_half_cache() ? KvPrecision::fp16 : KvPrecision::fp32;
        layers = fitting_layers(decoder, precision, DEFAULT_CHUNK, std::min(context, config.max_context), most);
        if (layers == 0) {
            reason = "of the GPU " + device->name() + " only " + std::to_string(most >> 20) +
                     " MiB may be used, too little for a single layer";
            return nullptr;
        }
    }
    std::unique_ptr<CudaDecoder> result(new CudaDecoder(decoder, std::move(device), options.offload_weights != 0));
    result->layers_.resize(layers);
    result->whole_ = layers == config.layers;
    result->upload();
    return result;
}

std::shared_lock<std::shared_mutex> CudaDecoder::use() {
    std::shared_lock<std::shared_mutex> used(mutex_);
    while (memory_.empty()) {
        used.unlock();
        {
            const std::unique_lock<std::shared_mutex> alone(mutex_);
            if (memory_.empty())
                upload();
        }
        used.lock();
    }
    return used;
}

void CudaDecoder::offload_weights() {
    if (!may_offload_)
        return;
    const std::unique_lock<std::shared_mutex> alone(mutex_);
    memory_.clear();
}

// Leaves nothing on the device when it fails.
void CudaDecoder::upload() {
    try {
        upload_weights();
    } catch (...) {
        memory_.clear();
        throw;
    }
    ++uploads_;
}

void CudaDecoder::upload_weights() {
    const DecoderConfig &config = decoder_.config();
    const std::vector<float> &frequencies = decoder_.inverse_frequencies();
    bytes_ = 0;
    frequencies_ = upload_floats(frequencies.data(), frequencies.size());
    for (size_t i = 0; i < layers_.size(); ++i) {
        const DecoderLayer &source = decoder_.layers()[i];
        UploadedLayer &layer = layers_[i];
        layer.input_norm = upload_floats(source.input_norm, config.hidden_size);
        layer.qkv = upload_matrix(source.qkv);
        layer.output = upload_matrix(source.output);
        layer.post_attention_norm = upload_floats(source.post_attention_norm, config.hidden_size);
        layer.gate_up = upload_matrix(source.gate_up);
        layer.down = upload_matrix(source.down);
        decoder_.drop_pages(); // what was uploaded is not needed here any more
    }
    if (whole_) {
        norm_ = upload_floats(decoder_.norm(), config.hidden_size);
        head_ = upload_matrix(decoder_.head());
    }
    decoder_.drop_pages();
}

UploadedMatrix CudaDecoder::upload_matrix(const Matrix &matrix) {
    UploadedMatrix uploaded{matrix.precision, matrix.code, {}};
    DeviceMatrix &target = uploaded.matrix;
    const size_t values = matrix.panels() * v2e::PANEL * matrix.columns;
    const size_t groups = matrix.panels() * v2e::PANEL * matrix.groups();
    const size_t bytes = matrix.precision == Precision::int4   ? values / 2
                         : matrix.precision == Precision::int8 ? values
                         : matrix.precision == Precision::fp16 ? values * 2
                                                               : values * 4;
    target.weight = reinterpret_cast<const uint8_t *>(upload_bytes(matrix.weight, bytes));
    if (matrix.scales != nullptr)
        target.scales = reinterpret_cast<const uint16_t *>(upload_bytes(matrix.scales, groups * sizeof(uint16_t)));
    if (matrix.zeros != nullptr)
        target.zeros = reinterpret_cast<const uint8_t *>(upload_bytes(matrix.zeros, groups));
    if (matrix.bias != nullptr)
        target.bias = upload_floats(matrix.bias, matrix.rows);
    target.rows = static_cast<int>(matrix.rows);
    target.columns = static_cast<int>(matrix.columns);
    target.group_size = static_cast<int>(matrix.group_size);
    return uploaded;
}

const float *CudaDecoder::upload_floats(const float *values, size_t count) {
    return reinterpret_cast<const float *>(upload_bytes(values, count * sizeof(float)));
}

Address CudaDecoder::upload_bytes(const void *source, size_t bytes) {
    memory_.emplace_back(*device_, bytes);
    memory_.back().fill(source, bytes);
    bytes_ += bytes;
    return memory_.back().address();
}

} // namespace v2e::cuda
