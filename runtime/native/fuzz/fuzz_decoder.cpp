// A decoder's file from an untrusted source: two bytes of options, a line with the header of decoder.safetensors, a
// line with that of embeddings.safetensors, and the beginning of the weights. What opens also answers, or says why not.
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"

#include <vector>

namespace {

// Runs are kept short: a model that is larger than the tiny one is opened only.
bool small(const v2e_decoder_description &model) {
    return model.layers <= 4 && model.hidden_size <= 256 && model.vocabulary_size <= 4096 &&
           model.weight_bytes <= 256 << 10;
}

void answer(const v2e_decoder *model, const v2e_decoder_description &description, uint32_t kv_precision) {
    v2e_decoder_session_options options{};
    options.struct_size = sizeof options;
    options.kv_precision = kv_precision;
    options.prefill_chunk = 2;
    v2e_decoder_session *session = nullptr;
    if (fuzz::seen(v2e_decoder_session_open(model, &options, &session)) != V2E_OK)
        return;
    const int32_t tokens[] = {0, static_cast<int32_t>(description.vocabulary_size) - 1, 0};
    const v2e_segment segment{tokens, nullptr, 3};
    if (fuzz::seen(v2e_decoder_session_prefill(session, &segment, 1, 1, nullptr, nullptr)) == V2E_OK) {
        v2e_generate_options generate{};
        generate.struct_size = sizeof generate;
        generate.max_new_tokens = 3;
        v2e_stop_reason reason;
        fuzz::seen(v2e_decoder_session_generate(session, &generate, nullptr, nullptr, &reason));
        MUST(v2e_decoder_session_length(session) <= 6 &&
             v2e_decoder_session_length(session) <= description.max_context);
    }
    v2e_decoder_session_close(session);
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const fuzz::ScratchDirectory scratch;
    static const std::string directory = scratch.file("decoder");
    fuzz::Input input(data, size);
    v2e_decoder_options options{};
    options.struct_size = sizeof options;
    options.threads = 1;
    options.activations = input.byte() % 2;
    const uint8_t choice = input.byte();
    options.isa = choice / 4 % 6; // one that the machine lacks is refused
    const std::string_view header = input.line(), embeddings = input.line();
    fuzz::write_file(directory + "/decoder.safetensors", fuzz::safetensors(header, input.rest()));
    fuzz::write_file(directory + "/embeddings.safetensors", fuzz::safetensors(embeddings, ""));
    v2e_decoder *model = nullptr;
    if (fuzz::seen(v2e_decoder_open(directory.c_str(), &options, &model)) != V2E_OK) {
        MUST(model == nullptr);
        return 0;
    }
    v2e_decoder_description description{};
    description.struct_size = sizeof description;
    MUST(v2e_decoder_describe(model, &description) == V2E_OK);
    MUST(description.heads % description.kv_heads == 0);
    if (small(description))
        answer(model, description, choice % 4);
    v2e_decoder_close(model);
    return 0;
}
