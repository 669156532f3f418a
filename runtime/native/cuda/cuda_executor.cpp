#include "cuda/cuda_executor.hpp"

#include "base/error.hpp"
#include "cuda/cuda_pass.hpp"
#include "cuda/device_plan.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace v2e::cuda {
namespace {

size_t segments_for(size_t positions) {
    return (positions + KEY_SEGMENT - 1) / KEY_SEGMENT;
}

std::string in_layer(const char *stage, int layer) {
    return std::string("the ") + stage + " of layer " + std::to_string(layer);
}

// The names that forward.cpp has for the same stages.
std::string stage_name(int code, int layers) {
    const int layer = code / STAGES, stage = code % STAGES;
    if (layer == layers && stage != STAGE_RESIDUAL)
        return stage == STAGE_INPUT_NORM ? "the final norm" : "the logits";
    switch (stage) {
    case STAGE_RESIDUAL:
        return layer == 0 ? "the input embeddings" : in_layer("MLP", layer - 1);
    case STAGE_INPUT_NORM:
        return in_layer("input norm", layer);
    case STAGE_QKV:
        return in_layer("query, key and value projection", layer);
    case STAGE_ATTENTION:
        return in_layer("attention", layer);
    case STAGE_MIDDLE:
        return in_layer("attention output", layer);
    case STAGE_MIDDLE_NORM:
        return in_layer("post-attention norm", layer);
    default:
        return in_layer("MLP activation", layer);
    }
}

// Work on a queue that is recorded instead of done. Ends the recording in every case: a queue that records takes no
// other work.
class Recorder {
  public:
    Recorder(const Device &device, const Queue &queue) : driver_(device.driver()), queue_(queue) {
        V2E_CUDA(driver_, cuStreamBeginCapture_v2, queue.stream(), CAPTURE_THREAD_LOCAL);
    }
    ~Recorder() {
        if (open_ && driver_.cuStreamEndCapture(queue_.stream(), &graph_) != SUCCESS)
            graph_ = nullptr;
        if (graph_ != nullptr)
            driver_.cuGraphDestroy(graph_);
    }
    Recorder(const Recorder &) = delete;
    Recorder &operator=(const Recorder &) = delete;

    GraphExec finish() {
        open_ = false;
        V2E_CUDA(driver_, cuStreamEndCapture, queue_.stream(), &graph_);
        GraphExec executable = nullptr;
        V2E_CUDA(driver_, cuGraphInstantiateWithFlags, &executable, graph_, 0ull);
        return executable;
    }

  private:
    const Driver &driver_;
    const Queue &queue_;
    Graph graph_ = nullptr;
    bool open_ = true;
};

// A point in a queue that the host can wait for.
class Mark {
  public:
    explicit Mark(const Device &device) : driver_(device.driver()) {
        V2E_CUDA(driver_, cuEventCreate, &event_, EVENT_DISABLE_TIMING);
    }
    ~Mark() { driver_.cuEventDestroy_v2(event_); }
    Mark(const Mark &) = delete;
    Mark &operator=(const Mark &) = delete;
    void set(const Queue &queue) { V2E_CUDA(driver_, cuEventRecord, event_, queue.stream()); }
    void wait() const { V2E_CUDA(driver_, cuEventSynchronize, event_); }

  private:
    const Driver &driver_;
    Event event_ = nullptr;
};

// The work that was enqueued has ended when this has: its buffers may then go or be used again, whatever was thrown.
class QueueEnd {
  public:
    QueueEnd(const Device &device, const Queue &queue) : driver_(device.driver()), queue_(queue) {}
    ~QueueEnd() { driver_.cuStreamSynchronize(queue_.stream()); }
    QueueEnd(const QueueEnd &) = delete;
    QueueEnd &operator=(const QueueEnd &) = delete;

  private:
    const Driver &driver_;
    const Queue &queue_;
};

} // namespace

CudaExecutor::CudaExecutor(const Decoder &decoder, CudaDecoder &device_decoder, KvPrecision precision,
                           size_t context_length)
    : decoder_(decoder), on_device_(device_decoder), device_(device_decoder.device()), context_length_(context_length),
      queue_(device_), cache_(device_, decoder.config(), device_decoder.layers().size(), precision, context_length) {
    const size_t rest = decoder.config().layers - device_decoder.layers().size();
    if (rest > 0)
        cpu_cache_.emplace(rest, decoder.config().kv_heads, decoder.config().head_size, precision);
}

CudaExecutor::~CudaExecutor() {
    drop_recordings();
}

void CudaExecutor::drop_recordings() noexcept {
    if (recordings_.empty())
        return;
    Context before = nullptr;
    if (device_.driver().cuCtxPushCurrent_v2(device_.context()) == SUCCESS) {
        for (const auto &[key, executable] : recordings_)
            device_.driver().cuGraphExecDestroy(executable);
        device_.driver().cuCtxPopCurrent_v2(&before);
    }
    recordings_.clear();
}

size_t CudaExecutor::default_chunk() const {
    return DEFAULT_CHUNK;
}

void CudaExecutor::reserve_positions(size_t positions) {
    const CurrentContext current(device_);
    cache_.reserve(positions);
    if (cpu_cache_)
        cpu_cache_->reserve(positions);
}

bool CudaExecutor::trim(size_t positions) {
    const bool trimmed = cache_.trim(positions);
    return (cpu_cache_ && cpu_cache_->trim(positions)) || trimmed;
}

uint64_t CudaExecutor::kv_bytes() const {
    return cache_.bytes() + (cpu_cache_ ? cpu_cache_->bytes() : 0);
}

uint64_t CudaExecutor::kv_bytes_of(size_t positions) const {
    return cache_.bytes_of(positions) + (cpu_cache_ ? cpu_cache_->bytes_of(positions) : 0);
}

void CudaExecutor::reserve_rows(size_t rows) {
    if (rows > MOST_CHUNK)
        fail(V2E_ERROR_INPUT, "prefill_chunk is %zu; on a GPU at most %zu positions are possible.", rows, MOST_CHUNK);
    rows = std::max<size_t>(rows, STEP_ROWS);
    if (rows <= scratch_.rows)
        return;
    const CurrentContext current(device_);
    const DecoderConfig &config = decoder_.config();
    drop_recordings(); // they know where the buffers were
    scratch_.rows = 0;
    const size_t widest = std::max({config.hidden_size, config.intermediate_size, config.query_size()});
    bool floats = !on_device_.whole() || !decoder_.head().quantized(), halves = false;
    for (size_t i = 0; i < on_device_.layers().size(); ++i) {
        const DecoderLayer &layer = decoder_.layers()[i];
        for (const Matrix *matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
            (matrix->quantized() ? halves : floats) = true;
    }
    const auto reserve = [&](DeviceMemory &memory, size_t count, size_t value_bytes) {
        memory.reserve(device_, count * value_bytes);
    };
    scratch_.segments = segments_for(context_length_);
    reserve(scratch_.hidden, rows * config.hidden_size, sizeof(float));
    reserve(scratch_.qkv, rows * config.qkv_size(), sizeof(float));
    reserve(scratch_.attended, rows * config.query_size(), sizeof(float));
    reserve(scratch_.gate_up, rows * 2 * config.intermediate_size, sizeof(float));
    reserve(scratch_.partials, STEP_ROWS * config.heads * scratch_.segments * (config.head_size + 2), sizeof(float));
    reserve(scratch_.logits, STEP_ROWS * config.vocabulary_size, sizeof(float));
    reserve(scratch_.floats, floats ? rows * widest : 1, sizeof(float));
    reserve(scratch_.halves, halves ? rows * widest : 1, sizeof(uint16_t));
    reserve(scratch_.factors, rows, sizeof(float));
    reserve(scratch_.planes, STEP_ROWS * widest, 2);
    reserve(scratch_.plane_sums, STEP_ROWS * widest / 8, sizeof(int32_t));
    reserve(scratch_.plane_scales, STEP_ROWS * widest / 32, sizeof(float));
    reserve(scratch_.state, 1, sizeof(PassState));
    scratch_.host_hidden.reserve(device_, rows * config.hidden_size * sizeof(float));
    narrowing_.reserve(device_, config.vocabulary_size);
    scratch_.host_state.reserve(device_, 2 * sizeof(PassState));
    if (cpu_cache_)
        cpu_scratch_.reserve(decoder_, rows);
    scratch_.rows = rows;
}

bool CudaExecutor::run(const ForwardCall &call) {
    const CurrentContext current(device_);
    const auto weights = on_device_.use();
    const QueueEnd end(device_, queue_);
    if (recorded_upload_ != on_device_.uploads()) {
        drop_recordings(); // they know where the weights were
        recorded_upload_ = on_device_.uploads();
    }
    if (call.step)
        run_step(call);
    else
        run_prefill(call);
    if (!on_device_.whole()) {
        run_rest_on_cpu(call, call.count);
        return true;
    }
    if (!call.step)
        return true;
    if (call.best == nullptr) {
        queue_.download(call.logits, scratch_.logits.address(),
                        call.count * decoder_.config().vocabulary_size * sizeof(float));
        queue_.wait();
        return true;
    }
    const PassState &result = scratch_.host_state.as<PassState>()[1];
    for (size_t row = 0; row < call.count; ++row)
        call.best[row] = static_cast<int32_t>(~static_cast<uint32_t>(result.best[row]));
    return false;
}

void CudaExecutor::read_logits(size_t first, size_t count, float *logits) {
    const CurrentContext current(device_);
    const size_t bytes = decoder_.config().vocabulary_size * sizeof(float);
    queue_.download(logits, scratch_.logits.address() + first * bytes, count * bytes);
    queue_.wait();
}

void CudaExecutor::narrow(size_t row, const Narrowing &narrowing, Candidate *candidates) {
    const CurrentContext current(device_);
    const QueueEnd end(device_, queue_);
    const size_t vocabulary = decoder_.config().vocabulary_size;
    narrowing_.run(device_, queue_, scratch_.logits.as<float>() + row * vocabulary, vocabulary, narrowing, candidates);
}

void CudaExecutor::begin_pass(const ForwardCall &call) {
    PassState &state = scratch_.host_state.as<PassState>()[0];
    state.position = static_cast<int>(call.position);
    state.status = NOT_FAILED;
    std::fill_n(state.best, STEP_ROWS, 0);
}

// All that a step does on the device, from the host's embeddings to the host's copy of the state.
void CudaExecutor::enqueue_step(size_t rows, size_t segments) {
    const size_t hidden_bytes = rows * decoder_.config().hidden_size * sizeof(float);
    queue_.upload(scratch_.state.address(), scratch_.host_state.as<PassState>(), sizeof(PassState));
    queue_.upload(scratch_.hidden.address(), scratch_.host_hidden.as<float>(), hidden_bytes);
    CudaPass pass(decoder_, on_device_, cache_, scratch_, queue_, rows, segments);
    for (size_t layer = 0; layer < on_device_.layers().size(); ++layer) {
        pass.project_qkv(layer);
        pass.attend(layer);
        pass.run_mlp(layer);
    }
    if (on_device_.whole())
        pass.compute_logits(0, rows);
    else
        queue_.download(scratch_.host_hidden.as<float>(), scratch_.hidden.address(), hidden_bytes);
    queue_.download(scratch_.host_state.as<PassState>() + 1, scratch_.state.address(), sizeof(PassState));
}

// The work is recorded once for every number of rows and every doubling of the keys, then replayed: launching hundreds
// of kernels one by one would take longer than some of them.
void CudaExecutor::run_step(const ForwardCall &call) {
    require_going(call.stop);
    size_t segments = 1;
    while (segments < segments_for(call.position + call.count))
        segments *= 2;
    segments = std::min(segments, scratch_.segments);
    begin_pass(call);
    auto found = recordings_.find({call.count, segments});
    if (found == recordings_.end()) {
        Recorder recorder(device_, queue_);
        enqueue_step(call.count, segments);
        found = recordings_.emplace(std::pair(call.count, segments), recorder.finish()).first;
    }
    V2E_CUDA(device_.driver(), cuGraphLaunch, found->second, queue_.stream());
    queue_.wait();
    check_status();
}

// Enqueues one layer ahead of the device, which never waits for the host, and a cancelled call ends within two layers.
void CudaExecutor::run_prefill(const ForwardCall &call) {
    const DecoderConfig &config = decoder_.config();
    const size_t layers = on_device_.layers().size(), hidden_bytes = call.count * config.hidden_size * sizeof(float);
    begin_pass(call);
    queue_.upload(scratch_.state.address(), scratch_.host_state.as<PassState>(), sizeof(PassState));
    queue_.upload(scratch_.hidden.address(), scratch_.host_hidden.as<float>(), hidden_bytes);
    CudaPass pass(decoder_, on_device_, cache_, scratch_, queue_, call.count, 0);
    Mark marks[2] = {Mark(device_), Mark(device_)};
    for (size_t layer = 0; layer < layers; ++layer) {
        require_going(call.stop);
        pass.project_qkv(layer);
        const bool last = layer + 1 == config.layers;
        if (last)
            pass.drop_rows(call.count - call.logit_rows);
        if (!last || call.logit_rows > 0) {
            pass.attend(layer);
            pass.run_mlp(layer);
        }
        marks[layer % 2].set(queue_);
        if (layer > 0)
            marks[(layer - 1) % 2].wait();
    }
    if (on_device_.whole())
        compute_prefill_logits(call);
    else
        queue_.download(scratch_.host_hidden.as<float>(), scratch_.hidden.address(), hidden_bytes);
    queue_.download(scratch_.host_state.as<PassState>() + 1, scratch_.state.address(), sizeof(PassState));
    queue_.wait();
    check_status();
}

void CudaExecutor::compute_prefill_logits(const ForwardCall &call) {
    const size_t vocabulary = decoder_.config().vocabulary_size;
    CudaPass pass(decoder_, on_device_, cache_, scratch_, queue_, call.count, 0);
    for (size_t done = 0; done < call.logit_rows; done += STEP_ROWS) {
        const size_t count = std::min<size_t>(STEP_ROWS, call.logit_rows - done);
        pass.compute_logits(call.count - call.logit_rows + done, count);
        queue_.download(call.logits + done * vocabulary, scratch_.logits.address(), count * vocabulary * sizeof(float));
    }
}

// Computes the other layers from the hidden states that the device's layers left.
void CudaExecutor::run_rest_on_cpu(const ForwardCall &call, size_t rows) {
    std::memcpy(cpu_scratch_.hidden.data(), scratch_.host_hidden.as<float>(),
                rows * decoder_.config().hidden_size * sizeof(float));
    ForwardCall rest = call;
    rest.first_layer = on_device_.layers().size();
    forward(decoder_, *cpu_cache_, cpu_scratch_, rest);
}

void CudaExecutor::check_status() const {
    const int status = scratch_.host_state.as<PassState>()[1].status;
    if (status != NOT_FAILED)
        fail(V2E_ERROR_NUMERIC, "The decoder computed a NaN or an infinity in %s.",
             stage_name(status, static_cast<int>(decoder_.config().layers)).c_str());
}

// Here, since the decoder itself knows nothing of sessions.
std::unique_ptr<Executor> CudaDecoder::make_executor(KvPrecision precision, size_t context_length) {
    const CurrentContext current(*device_);
    return std::make_unique<CudaExecutor>(decoder_, *this, precision, context_length);
}

} // namespace v2e::cuda
