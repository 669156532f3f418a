// A saved session from an untrusted source, with the checksum that its maker would have computed: four bytes of
// choices, a line with the header, and the tensors' data. The header's @identity@, @arithmetic@ and @checksum@ stand
// for the right values. What loads can be used; whatever happens, a new session of the same model answers as if it had
// not been there.
#include "base/digest.hpp"
#include "bundle/safetensors.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"

#include <vector>

namespace {

constexpr int32_t QUESTION[] = {3, 1, 4, 1, 5, 9, 2, 6}; // the seeds' sessions begin with it
constexpr size_t QUESTION_LENGTH = std::size(QUESTION);
constexpr uint32_t PRECISIONS = 4;

struct Answer {
    int32_t tokens[3];
    size_t count = 0;
    std::vector<float> logits;

    bool operator==(const Answer &other) const {
        return count == other.count && std::equal(tokens, tokens + count, other.tokens) && logits == other.logits;
    }
};

int note_token(const v2e_event *event, void *user_data) {
    auto &answer = *static_cast<Answer *>(user_data);
    if (event->kind == V2E_EVENT_TOKEN && answer.count < std::size(answer.tokens))
        answer.tokens[answer.count++] = event->token;
    return 0;
}

// What the model says to the question in a session of its own.
Answer ask(const v2e_decoder *model, uint32_t kv_precision) {
    v2e_decoder_session_options options{};
    options.struct_size = sizeof options;
    options.kv_precision = kv_precision;
    v2e_decoder_session *session = nullptr;
    MUST(v2e_decoder_session_open(model, &options, &session) == V2E_OK);
    const v2e_segment segment{QUESTION, nullptr, QUESTION_LENGTH};
    MUST(v2e_decoder_session_prefill(session, &segment, 1, 1, nullptr, nullptr) == V2E_OK);
    Answer answer;
    answer.logits.resize(fuzz::VOCABULARY);
    MUST(v2e_decoder_session_logits(session, 1, answer.logits.data()) == V2E_OK);
    v2e_generate_options generate{};
    generate.struct_size = sizeof generate;
    generate.max_new_tokens = std::size(answer.tokens);
    v2e_stop_reason reason;
    MUST(v2e_decoder_session_generate(session, &generate, note_token, &answer, &reason) == V2E_OK);
    v2e_decoder_session_close(session);
    return answer;
}

class Bundle {
  public:
    Bundle() : path_(scratch_.file("bundle")) {
        fuzz::write_bundle(path_, "int4");
        v2e_decoder *model = open();
        for (uint32_t precision = 0; precision < PRECISIONS; ++precision)
            answers_.push_back(ask(model, precision));
        v2e_decoder_session_options options{};
        options.struct_size = sizeof options;
        v2e_decoder_session *session = nullptr;
        MUST(v2e_decoder_session_open(model, &options, &session) == V2E_OK);
        MUST(v2e_decoder_session_save(session, session_path().c_str(), "") == V2E_OK);
        const v2e::SafetensorsFile saved(session_path());
        identity_ = saved.metadata().at("identity");
        arithmetic_ = saved.metadata().at("arithmetic");
        v2e_decoder_session_close(session);
        v2e_decoder_close(model);
    }

    v2e_decoder *open() const {
        v2e_decoder_options options{};
        options.struct_size = sizeof options;
        options.threads = 1;
        options.isa = V2E_ISA_PORTABLE;
        v2e_decoder *model = nullptr;
        MUST(v2e_decoder_open((path_ + "/decoder").c_str(), &options, &model) == V2E_OK);
        return model;
    }

    std::string session_path() const { return scratch_.file("input.session"); }
    const Answer &answer(uint32_t precision) const { return answers_[precision]; }
    const std::string &identity() const { return identity_; }
    const std::string &arithmetic() const { return arithmetic_; }

  private:
    fuzz::ScratchDirectory scratch_;
    std::string path_, identity_, arithmetic_;
    std::vector<Answer> answers_; // by v2e_kv_precision
};

void replace(std::string &text, std::string_view word, const std::string &value) {
    if (const size_t at = text.find(word); at != std::string::npos)
        text.replace(at, word.size(), value);
}

// The checksum as src/generation/session_file.cpp computes it, from its own reading of the file; empty when the file
// cannot be read.
std::string checksum_of(const std::string &path) {
    try {
        const v2e::SafetensorsFile file(path);
        v2e::Digest digest;
        const auto add = [&digest](const std::string &text) { digest.add(text.c_str(), text.size() + 1); };
        for (const auto &[key, value] : file.metadata())
            if (key != "checksum") {
                add(key);
                add(value);
            }
        for (const auto &[name, tensor] : file.tensors()) {
            std::string shape;
            for (const uint64_t size : tensor.shape)
                shape += (shape.empty() ? "" : ",") + std::to_string(size);
            add(name);
            add(tensor.dtype);
            add(shape);
            digest.add(tensor.data, tensor.bytes);
        }
        return v2e::to_hex(digest.finish());
    } catch (const v2e::Failure &) {
        return {};
    }
}

// The v2e_kv_precision that a header names: pages of others are no danger to a session in this one.
uint32_t precision_of(std::string_view text) {
    constexpr std::string_view NAMES[] = {"", "\"kv_precision\":\"fp16\"", "\"kv_precision\":\"fp32\"",
                                          "\"kv_precision\":\"int8\""};
    for (uint32_t precision = 1; precision < PRECISIONS; ++precision)
        if (text.find(NAMES[precision]) != std::string_view::npos)
            return precision;
    return V2E_KV_AUTO;
}

void write_session(const Bundle &bundle, fuzz::Input &input) {
    std::string header(input.line());
    replace(header, "@identity@", bundle.identity());
    replace(header, "@arithmetic@", bundle.arithmetic());
    const std::string blank(64, '0'); // as long as a checksum
    const size_t at = header.find("@checksum@");
    replace(header, "@checksum@", blank);
    fuzz::write_file(bundle.session_path(), fuzz::safetensors(header, input.rest()));
    const std::string checksum = at == std::string::npos ? "" : checksum_of(bundle.session_path());
    if (checksum.empty())
        return;
    header.replace(at, checksum.size(), checksum);
    fuzz::write_file(bundle.session_path(), fuzz::safetensors(header, input.rest()));
}

// Goes on in what was loaded, as far as the choices say.
void use(v2e_decoder_session *session, uint8_t choices) {
    fuzz::seen(v2e_decoder_session_save(session, nullptr, nullptr));
    if (choices & 1) {
        std::vector<float> logits(fuzz::VOCABULARY);
        fuzz::seen(v2e_decoder_session_logits(session, 1, logits.data()));
    }
    v2e_generate_options generate{};
    generate.struct_size = sizeof generate;
    generate.max_new_tokens = 2;
    generate.temperature = choices & 2 ? 1.0f : 0.0f;
    generate.repetition_penalty = choices & 2 ? 1.5f : 0.0f;
    generate.speculation = choices & 4 ? V2E_SPECULATION_ALWAYS : V2E_SPECULATION_AUTO;
    v2e_stop_reason reason;
    fuzz::seen(v2e_decoder_session_generate(session, &generate, nullptr, nullptr, &reason));
    if (choices & 8)
        fuzz::seen(v2e_decoder_session_truncate(session, v2e_decoder_session_length(session) / 2));
    const size_t length = v2e_decoder_session_length(session);
    if ((choices & 16) && length < QUESTION_LENGTH) { // the rest of the question, on top of what was loaded
        const v2e_segment segment{QUESTION + length, nullptr, QUESTION_LENGTH - length};
        fuzz::seen(v2e_decoder_session_prefill(session, &segment, 1, 1, nullptr, nullptr));
        fuzz::seen(v2e_decoder_session_generate(session, &generate, nullptr, nullptr, &reason));
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const Bundle bundle;
    fuzz::Input input(data, size);
    v2e_decoder_session_options options{};
    options.struct_size = sizeof options;
    constexpr uint32_t contexts[] = {0, 0, 1, 8, 300, 600, 601, UINT32_MAX};
    const uint8_t shape = input.byte(), choices = input.byte(), reload = input.byte();
    options.context_length = contexts[shape % 8];
    options.kv_precision = shape / 8 % 2 == 0 ? 0 : shape / 16 % 5;
    options.reuse = input.byte() % 4 == 3 ? V2E_REUSE_OFF : V2E_REUSE_AUTO;
    const uint32_t precision = precision_of(input.rest());
    write_session(bundle, input);

    v2e_decoder *model = bundle.open();
    v2e_decoder_session *session = nullptr;
    const std::string path = bundle.session_path();
    if (fuzz::seen(v2e_decoder_session_load(model, path.c_str(), &options, &session)) == V2E_OK) {
        MUST(v2e_decoder_session_length(session) <= fuzz::CONTEXT && v2e_decoder_session_note(session) != nullptr);
        use(session, choices);
        if (reload % 4 == 1 && fuzz::seen(v2e_decoder_session_save(session, path.c_str(), "note")) == V2E_OK) {
            v2e_decoder_session_close(session);
            MUST(v2e_decoder_session_load(model, path.c_str(), &options, &session) == V2E_OK);
            use(session, choices);
        }
        v2e_decoder_session_close(session);
    } else {
        MUST(session == nullptr);
    }
    MUST(ask(model, precision) == bundle.answer(precision));
    v2e_decoder_close(model);
    return 0;
}
