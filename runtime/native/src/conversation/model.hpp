// A bundle in memory, shared by its conversations.
#pragma once

#include "bundle/bundle.hpp"
#include "conversation/engine.hpp"
#include "conversation/memory_limit.hpp"
#include "conversation/options.hpp"
#include "decoder/device_kind.hpp"
#include "generation/loaded_decoder.hpp"
#include "picture/policy.hpp"
#include "text/tokenizer.hpp"
#include "valley2_parts.h"
#include "vision/encoder.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace v2e {

// What a conversation takes under a limit on memory.
struct SessionPlan {
    uint64_t planned_bytes = 0; // 0: there is no limit
    std::string given_up;       // a part of a sentence; empty: nothing
};

// Told how far opening is; false stops.
using LoadProgress = std::function<bool(v2e_event_kind kind, uint64_t done, uint64_t total)>;

// What it computes with does not change, apart from caches, which change no answer. Safe for threads.
class Model {
  public:
    // As v2e_model_open says it; `progress` may be empty. given: of the library's size.
    static std::shared_ptr<Model> open(const std::string &directory, const v2e_model_options &given,
                                       const DeviceKind &devices, const LoadProgress &progress);

    v2e_model_description describe() const;
    void trim() const;

    // Options that keep the limit on memory, and what that costs. The caches of all conversations become as small as
    // one of them needs them to be. Fails with V2E_ERROR_BUDGET.
    SessionPlan fit(ConversationOptions &options) const;
    // Fails with V2E_ERROR_BUDGET when a question about these pictures would not keep the limit.
    void check_memory(const ConversationOptions &options, const std::vector<VisionPicture> &pictures, bool video) const;

    const Tokenizer &tokenizer() const { return *tokenizer_; }
    const LoadedDecoder &decoder() const { return *decoder_; }
    VisionEncoder &vision() const { return *vision_; }
    Engine &engine() const { return engine_; }
    const PictureArchitecture &pictures() const { return pictures_; }
    const std::vector<int32_t> &stop_tokens() const { return stop_tokens_; }
    bool wraps_pictures() const { return wraps_pictures_; }
    uint64_t visual_vocabulary() const { return visual_vocabulary_; } // entries
    uint32_t max_context() const { return max_context_; }

  private:
    Model(const std::string &directory, const v2e_model_options &given, const DeviceKind &devices,
          const LoadProgress &progress);

    void read_architecture();
    void share_gpu_memory();
    Tokenizer open_tokenizer() const;
    std::unique_ptr<LoadedDecoder> open_decoder() const;
    std::unique_ptr<VisionEncoder> open_vision() const;
    void check_sizes() const;
    PlanRequest request(const ConversationOptions &options) const;
    void shrink(const v2e_memory_choice &choice) const;

    const DeviceKind &devices_;
    bool offloads_weights_ = false; // the decoder's leave the GPU while pictures are encoded
    const Bundle bundle_;
    const uint64_t process_bytes_; // of the program without the model
    mutable std::mutex lock_;
    mutable v2e_model_options given_; // what a limit on memory has left of it
    PictureArchitecture pictures_;
    std::vector<int32_t> stop_tokens_;
    bool wraps_pictures_ = true;
    uint64_t visual_vocabulary_ = 0;
    uint32_t max_context_ = 0;
    std::optional<Tokenizer> tokenizer_;
    std::unique_ptr<LoadedDecoder> decoder_;
    std::unique_ptr<VisionEncoder> vision_;
    mutable Engine engine_; // ends before what it computes with
};

} // namespace v2e
