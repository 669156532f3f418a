// Sequences of the header's calls: each byte chooses a call, the next ones its arguments from tables of boundaries, of
// NULLs, of sizes near 2^64 and of misaligned pointers. Memory is as large as a correct library can need: what it
// touches beyond is seen. Sizes that nothing bounds but the caller's word are not lied about.
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"
#include "valley2_parts.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

using fuzz::Input;

constexpr size_t MOST_CALLS = 40;
constexpr size_t SIZES[] = {
    0, 1, 2, 3, 17, 255, 300, 599, 600, 601, SIZE_MAX / 8, SIZE_MAX / 4, SIZE_MAX / 2 + 1, SIZE_MAX - 1, SIZE_MAX};
constexpr size_t STRUCT_SIZES[] = {0, 1, 7, 8, 12, 16};
constexpr uint32_t NUMBERS[] = {0, 0, 0, 1, 2, 3, 4, 256, 65536, 65537, 1u << 31, UINT32_MAX};
constexpr uint32_t THREADS[] = {1, 1, 1, 2, 1025, UINT32_MAX};
constexpr float FLOATS[] = {0.0f, 0.0f, 1.0f, 0.9f, 0.5f, 1e-38f, 1e6f, 1.5f, -1.0f, NAN, INFINITY};
constexpr uint64_t BYTES[] = {0, 1, 40000, UINT64_MAX};

// Mostly whole, at times as an older or a careless caller has it.
template <class Options>
Options make_options(Input &input) {
    Options options{};
    const uint8_t choice = input.byte();
    options.struct_size = choice % 8 == 7 ? STRUCT_SIZES[choice / 8 % std::size(STRUCT_SIZES)] : sizeof options;
    return options;
}

// Has one entry more than asked for: a pointer into it may be moved by a byte.
template <class T>
class Array {
  public:
    explicit Array(size_t count) : memory_((count + 1) * sizeof(T)), count_(count) {}

    void fill(T (*value)(size_t)) {
        for (size_t i = 0; i <= count_; ++i) {
            const T element = value(i);
            std::memcpy(memory_.data() + i * sizeof(T), &element, sizeof element);
        }
    }
    // Right, NULL or misaligned.
    T *pointer(Input &input) {
        const uint8_t choice = input.byte();
        if (choice % 8 == 6)
            return nullptr;
        return reinterpret_cast<T *>(memory_.data() + (choice % 8 == 7 ? 1 : 0));
    }

  private:
    std::vector<char> memory_;
    size_t count_;
};

struct Files {
    fuzz::ScratchDirectory scratch;
    std::string bundle = scratch.file("bundle"), decoder = bundle + "/decoder", session = scratch.file("a.session"),
                missing = scratch.file("no/such/file");

    Files() { fuzz::write_bundle(bundle, "int8"); }

    const char *choose(Input &input, const std::string &right) const {
        const char *const paths[] = {
            right.c_str(), right.c_str(), right.c_str(), right.c_str(), bundle.c_str(), missing.c_str(), "", nullptr};
        return input.pick(paths);
    }
};

// Made once: filling takes longer than most calls.
struct Arrays {
    Array<int32_t> tokens{fuzz::CONTEXT}, wrong_tokens{fuzz::CONTEXT};
    Array<float> embeddings{fuzz::CONTEXT * fuzz::HIDDEN}, wrong_embeddings{fuzz::CONTEXT * fuzz::HIDDEN};
    Array<float> rows{fuzz::CONTEXT * fuzz::VOCABULARY};

    Arrays() {
        tokens.fill([](size_t i) { return static_cast<int32_t>(i % fuzz::VOCABULARY); });
        wrong_tokens.fill([](size_t i) { return i == 2 ? static_cast<int32_t>(fuzz::VOCABULARY) : -1; });
        embeddings.fill([](size_t i) { return static_cast<float>(i % 13) / 13.0f; });
        wrong_embeddings.fill([](size_t i) { return i == 5 ? NAN : 3e38f; });
    }
};

// Decoders of other engines, in order and out of it. What they compute is 0, or no number.
v2e_status open_engine(void *user_data, uint32_t, void **engine) {
    *engine = user_data;
    return V2E_OK;
}
v2e_status say_cost(void *, const v2e_backend_shape *shape, v2e_backend_cost *cost) {
    cost->kv_bytes = shape->positions * 100;
    return V2E_OK;
}
v2e_status compute(void *engine, const v2e_backend_run *run) {
    MUST(run->logit_rows <= run->count && run->output_floats == run->logit_rows * fuzz::VOCABULARY);
    std::fill_n(run->output, run->output_floats, engine == nullptr ? 0.0f : NAN);
    return V2E_OK;
}
v2e_status fail_to_open(void *, uint32_t, void **) {
    return v2e_backend_fail(V2E_ERROR_BUDGET, "no room");
}
v2e_status fail_to_compute(void *, const v2e_backend_run *) {
    return static_cast<v2e_status>(99);
}
void close_engine(void *) {}

int not_null;
constexpr size_t WHOLE = sizeof(v2e_backend);
const v2e_backend BACKENDS[] = {
    {WHOLE, "zeros", nullptr, open_engine, say_cost, compute, nullptr, close_engine, nullptr, nullptr, nullptr},
    {WHOLE, nullptr, nullptr, open_engine, say_cost, compute, close_engine, close_engine, nullptr, nullptr, nullptr},
    {WHOLE, "no numbers", &not_null, open_engine, say_cost, compute, nullptr, close_engine, nullptr, nullptr, nullptr},
    {WHOLE, "closed", nullptr, fail_to_open, say_cost, compute, nullptr, close_engine, nullptr, nullptr, nullptr},
    {WHOLE, "broken", nullptr, open_engine, say_cost, fail_to_compute, nullptr, close_engine, nullptr, nullptr,
     nullptr},
    {WHOLE, "half", nullptr, open_engine, say_cost, nullptr, nullptr, close_engine, nullptr, nullptr, nullptr},
    {8, "small", nullptr, open_engine, say_cost, compute, nullptr, close_engine, nullptr, nullptr, nullptr},
    {0, "nothing", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr},
};

class World {
  public:
    World(const Files &files, Arrays &arrays, Input &input) : files_(files), arrays_(arrays), input_(input) {}
    ~World() {
        for (v2e_decoder_session *&session : sessions_)
            v2e_decoder_session_close(session);
        v2e_decoder_close(model_);
        v2e_tower_close(tower_);
    }
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    void call() {
        constexpr void (World::*CALLS[])() = {
            &World::open_model,    &World::close_model,  &World::open_session, &World::open_session,
            &World::close_session, &World::prefill,      &World::prefill,      &World::prefill,
            &World::logits,        &World::generate,     &World::generate,     &World::truncate,
            &World::save,          &World::load,         &World::interrupt,    &World::open_backend,
            &World::embed,         &World::describe,     &World::open_tower,   &World::plan_tower,
            &World::run_tower,     &World::refuse_nulls, &World::plan_memory,  &World::probe};
        (this->*input_.pick(CALLS))();
    }

  private:
    v2e_decoder_session *&session() { return sessions_[input_.byte() % std::size(sessions_)]; }

    void open_model() {
        auto options = make_options<v2e_decoder_options>(input_);
        options.threads = input_.pick(THREADS);
        options.isa = input_.byte() % 8;
        options.activations = input_.byte() % 4;
        options.prefix_cache_bytes = input_.pick(BYTES);
        options.no_prefix_cache = options.prefix_cache_bytes == 0;
        options.device = input_.byte() % 8 == 7 ? input_.byte() % 5 : V2E_DEVICE_CPU;
        v2e_decoder *opened = nullptr;
        const char *path = files_.choose(input_, files_.decoder);
        const bool null = input_.byte() == 255;
        fuzz::seen(v2e_decoder_open(path, null ? nullptr : &options, &opened));
        if (model_ == nullptr)
            model_ = opened;
        else
            v2e_decoder_close(opened);
    }

    void close_model() {
        for (v2e_decoder_session *&session : sessions_) {
            v2e_decoder_session_close(session);
            session = nullptr;
        }
        v2e_decoder_close(model_);
        model_ = nullptr;
    }

    v2e_decoder_session_options session_options() {
        auto options = make_options<v2e_decoder_session_options>(input_);
        options.context_length = input_.pick(NUMBERS);
        options.kv_precision = input_.byte() % 5;
        options.prefill_chunk = input_.pick(NUMBERS);
        options.reuse = input_.byte() % 8 == 7 ? input_.byte() % 4 : 0;
        return options;
    }

    void keep(v2e_decoder_session *opened) {
        v2e_decoder_session *&place = session();
        v2e_decoder_session_close(place);
        place = opened;
    }

    void open_session() {
        const v2e_decoder_session_options options = session_options();
        v2e_decoder_session *opened = nullptr;
        fuzz::seen(v2e_decoder_session_open(model_, &options, &opened));
        keep(opened);
    }

    void load() {
        const v2e_decoder_session_options options = session_options();
        v2e_decoder_session *opened = nullptr;
        fuzz::seen(v2e_decoder_session_load(model_, files_.choose(input_, files_.session), &options, &opened));
        keep(opened);
    }

    void close_session() { keep(nullptr); }

    // What a callback may do to the session that called it, and when it ends the call.
    struct Callback {
        v2e_decoder_session *session;
        uint8_t action;
        unsigned left;
    };

    static int on_event(const v2e_event *event, void *user_data) {
        auto &callback = *static_cast<Callback *>(user_data);
        MUST(event->struct_size == sizeof *event);
        switch (callback.action % 6) {
        case 0:
            v2e_decoder_session_cancel(callback.session);
            break;
        case 1:
            MUST(v2e_decoder_session_truncate(callback.session, 0) == V2E_ERROR_INPUT);
            break;
        case 2:
            MUST(v2e_decoder_session_prefill(callback.session, nullptr, 0, 0, nullptr, nullptr) == V2E_ERROR_INPUT);
            break;
        default:
            break;
        }
        return callback.left-- == 0 ? 1 : 0;
    }

    Callback callback(v2e_decoder_session *session) {
        const uint8_t action = input_.byte();
        return {session, action, input_.byte() % 8u};
    }

    void prefill() {
        v2e_segment segments[4];
        for (v2e_segment &segment : segments) {
            const uint8_t kind = input_.byte();
            segment.tokens =
                kind % 4 == 1 ? nullptr : (kind / 16 == 1 ? arrays_.wrong_tokens : arrays_.tokens).pointer(input_);
            segment.embeddings = kind % 4 == 1 || kind % 8 == 7
                                     ? (kind / 16 == 1 ? arrays_.wrong_embeddings : arrays_.embeddings).pointer(input_)
                                     : nullptr;
            segment.count = input_.pick(SIZES);
        }
        const uint8_t choice = input_.byte();
        const bool null = choice % 16 == 15;
        const size_t count = null ? SIZES[choice / 16 % std::size(SIZES)] : choice % 5;
        const size_t rows = input_.pick(SIZES);
        v2e_decoder_session *chosen = session();
        Callback events = callback(chosen);
        const size_t before = v2e_decoder_session_length(chosen);
        const v2e_status status = fuzz::seen(v2e_decoder_session_prefill(
            chosen, null ? nullptr : segments, count, rows, events.action >= 128 ? on_event : nullptr, &events));
        MUST(status == V2E_OK ? v2e_decoder_session_length(chosen) > before
                              : v2e_decoder_session_length(chosen) == before);
        MUST(v2e_decoder_session_length(chosen) <= fuzz::CONTEXT);
    }

    void logits() {
        const v2e_decoder_session *chosen = session();
        const size_t rows = input_.pick(SIZES);
        fuzz::seen(v2e_decoder_session_logits(chosen, rows, arrays_.rows.pointer(input_)));
    }

    v2e_generate_options generate_options() {
        auto options = make_options<v2e_generate_options>(input_);
        options.max_new_tokens = 1 + input_.byte() % 8;
        options.temperature = input_.pick(FLOATS);
        options.top_k = input_.pick(NUMBERS);
        options.top_p = input_.pick(FLOATS);
        options.min_p = input_.pick(FLOATS);
        options.repetition_penalty = input_.pick(FLOATS);
        options.seed = input_.byte();
        const uint8_t stops = input_.byte();
        options.stop_tokens = arrays_.tokens.pointer(input_);
        options.stop_token_count = stops % 16 < 12 ? 0 : stops % 16 == 15 ? SIZE_MAX - stops / 16 : stops % 16 - 11;
        options.speculation = input_.byte() % 4;
        options.tokens_to_follow = input_.pick(NUMBERS);
        return options;
    }

    void generate() {
        const v2e_generate_options options = generate_options();
        v2e_decoder_session *chosen = session();
        Callback events = callback(chosen);
        v2e_stop_reason reason;
        const bool whole = options.struct_size == sizeof options; // else it may run to the end of the context
        fuzz::seen(v2e_decoder_session_generate(chosen, &options, whole && events.action < 128 ? nullptr : on_event,
                                                &events, input_.byte() == 255 ? nullptr : &reason));
        MUST(v2e_decoder_session_length(chosen) <= fuzz::CONTEXT);
    }

    void truncate() {
        v2e_decoder_session *chosen = session();
        const size_t length = input_.pick(SIZES);
        if (fuzz::seen(v2e_decoder_session_truncate(chosen, length)) == V2E_OK)
            MUST(v2e_decoder_session_length(chosen) == length);
    }

    void save() {
        constexpr const char *notes[] = {nullptr, "", "a note", "\x1b]0;title\x07", "\xff\xfe"};
        const char *note = input_.pick(notes);
        v2e_decoder_session *chosen = session();
        fuzz::seen(v2e_decoder_session_save(chosen, files_.choose(input_, files_.session), note));
    }

    void interrupt() {
        if (const uint8_t choice = input_.byte(); choice % 4 == 0)
            v2e_decoder_session_cancel(session());
        else if (choice % 4 == 3)
            v2e_tower_cancel(tower_);
        else
            v2e_decoder_session_resume(session());
    }

    void open_backend() {
        auto options = make_options<v2e_decoder_options>(input_);
        options.threads = 1;
        options.backend = &BACKENDS[input_.byte() % std::size(BACKENDS)];
        v2e_decoder *opened = nullptr;
        fuzz::seen(v2e_decoder_open(files_.choose(input_, files_.decoder), &options, &opened));
        if (model_ == nullptr)
            model_ = opened;
        else
            v2e_decoder_close(opened);
    }

    void embed() {
        constexpr size_t counts[] = {0, 1, 2, 40, fuzz::CONTEXT};
        const size_t count = input_.pick(counts);
        const int32_t *tokens = (input_.byte() % 8 == 7 ? arrays_.wrong_tokens : arrays_.tokens).pointer(input_);
        fuzz::seen(v2e_decoder_embed(model_, tokens, count, arrays_.rows.pointer(input_)));
    }

    void describe() {
        auto description = make_options<v2e_decoder_description>(input_);
        fuzz::seen(v2e_decoder_describe(model_, &description));
        auto cache = make_options<v2e_prefix_cache>(input_);
        fuzz::seen(v2e_decoder_prefix_cache(model_, &cache));
        auto counters = make_options<v2e_decoder_session_counters>(input_);
        fuzz::seen(v2e_decoder_session_count(session(), &counters));
        fuzz::seen(v2e_decoder_resize_prefix_cache(model_, input_.pick(BYTES)));
        v2e_decoder_trim(model_);
        MUST(v2e_decoder_session_note(session()) != nullptr);
        MUST(v2e_decoder_session_kv_bytes(session()) <= uint64_t{1} << 20);
    }

    void open_tower() {
        auto options = make_options<v2e_tower_options>(input_);
        options.threads = input_.pick(THREADS);
        options.isa = input_.byte() % 8;
        options.dropped_mass = input_.pick(FLOATS);
        if (options.dropped_mass < 0) {
            options.dropped_mass = 0;
            options.whole_vocabulary = 1;
        }
        constexpr const char *names[] = {"siglip", "projector", "eagle"};
        const std::string path = files_.bundle + "/vision/" + input_.pick(names) + ".safetensors";
        v2e_tower *opened = nullptr;
        const char *chosen = files_.choose(input_, path);
        fuzz::seen(v2e_tower_open(chosen, &options, &opened));
        v2e_tower_close(tower_);
        tower_ = opened;
    }

    void plan_tower() {
        auto cost = make_options<v2e_tower_cost>(input_);
        fuzz::seen(v2e_tower_plan(tower_, input_.pick(SIZES), &cost));
        auto description = make_options<v2e_tower_description>(input_);
        fuzz::seen(v2e_tower_describe(tower_, &description));
        auto vocabulary = make_options<v2e_tower_vocabulary>(input_);
        fuzz::seen(v2e_tower_vocabulary_of(tower_, &vocabulary));
    }

    void run_tower() {
        auto given = make_options<v2e_tower_input>(input_);
        given.values = (input_.byte() % 8 == 7 ? arrays_.wrong_embeddings : arrays_.embeddings).pointer(input_);
        const uint8_t count = input_.byte();
        given.count = count % 16 == 15 ? SIZE_MAX - count / 16 : count % 16;
        Array<int64_t> positions(32);
        positions.fill(count % 3 == 0 ? [](size_t i) { return i == 3 ? INT64_MIN : INT64_MAX; }
                                      : [](size_t i) { return static_cast<int64_t>(i % 7); });
        given.positions = positions.pointer(input_);
        fuzz::seen(v2e_tower_run(tower_, &given, arrays_.rows.pointer(input_), nullptr, nullptr));
        v2e_tower_resume(tower_);
    }

    // Handles that are NULL are refused or ignored.
    void refuse_nulls() {
        v2e_decoder_session_cancel(nullptr);
        v2e_decoder_session_resume(nullptr);
        v2e_tower_cancel(nullptr);
        v2e_tower_resume(nullptr);
        v2e_decoder_session_close(nullptr);
        v2e_decoder_trim(nullptr);
        v2e_probe_close(nullptr);
        MUST(v2e_decoder_session_length(nullptr) == 0 && v2e_decoder_session_kv_bytes(nullptr) == 0);
        MUST(v2e_decoder_session_save(nullptr, "x", nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_decoder_session_open(model_, nullptr, nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_tower_open(nullptr, nullptr, nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_tower_run(tower_, nullptr, nullptr, nullptr, nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_choose_memory(nullptr, 0, nullptr, nullptr, nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_check_context(nullptr) == V2E_ERROR_INPUT);
        MUST(v2e_isa_name(input_.byte()) != nullptr && v2e_isa_name(UINT32_MAX) != nullptr);
        const int available = v2e_isa_available(input_.value<uint32_t>());
        MUST(available == 0 || available == 1);
    }

    // Takes nothing of the input, so that what was found before goes on to mean what it meant.
    void check_limits(const v2e_memory_options &options, v2e_memory_plan &plan) {
        const char *bundle = files_.bundle.c_str();
        v2e_memory_choice choice{};
        choice.struct_size = plan.struct_size;
        fuzz::seen(v2e_choose_memory(bundle, options.process_bytes, &options, &choice, &plan));
        v2e_gpu_share share{};
        share.struct_size = plan.struct_size;
        fuzz::seen(v2e_share_gpu(bundle, &options, &share, nullptr));
        fuzz::seen(v2e_check_memory(bundle, options.process_bytes, &options));
        v2e_context_question question{};
        question.struct_size = std::min(options.struct_size, sizeof question);
        question.text_tokens = options.process_bytes;
        question.used = options.picture_count;
        question.context_length = options.context_length;
        fuzz::seen(v2e_check_context(&question));
    }

    void plan_memory() {
        auto options = make_options<v2e_memory_options>(input_);
        options.context_length = input_.pick(NUMBERS);
        options.threads = input_.pick(THREADS);
        options.process_bytes = input_.pick(BYTES);
        options.picture_count = input_.byte() % 4 == 3 ? input_.pick(SIZES) : 0; // without pictures
        auto plan = make_options<v2e_memory_plan>(input_);
        fuzz::seen(v2e_plan_memory(files_.choose(input_, files_.bundle), &options, &plan));
        check_limits(options, plan);
    }

    // Refusals alone: to measure takes too long.
    void probe() {
        auto options = make_options<v2e_probe_options>(input_);
        options.threads = 1025;
        options.isa = input_.byte() % 8;
        options.device = input_.byte() % 5;
        v2e_probe *probe = nullptr;
        if (options.struct_size >= 12)
            MUST(fuzz::seen(v2e_probe_open(&options, &probe)) != V2E_OK);
        MUST(v2e_probe_int8(nullptr, nullptr) == V2E_ERROR_INPUT);
    }

    const Files &files_;
    Arrays &arrays_;
    Input &input_;
    v2e_decoder *model_ = nullptr;
    v2e_decoder_session *sessions_[2] = {};
    v2e_tower *tower_ = nullptr;
};

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const Files files;
    static Arrays arrays;
    std::error_code ignored; // it may not be there
    std::filesystem::remove(files.session, ignored);
    Input input(data, size);
    World world(files, arrays, input);
    for (size_t i = 0; i < MOST_CALLS && !input.empty(); ++i)
        world.call();
    return 0;
}
