// The memory plan of a bundle from an untrusted source, and what is given up for a limit: 64 bytes of options, then on
// a line of its own the header of decoder.safetensors, then the manifest. An answer adds up; sizes do not wrap; a
// choice keeps its limit.
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"
#include "valley2_parts.h"

namespace {

constexpr uint64_t BYTES[] = {0, 1, 4096, uint64_t{1} << 28, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX};
constexpr uint32_t SIDES[] = {1, 6, 640, 40000, INT32_MAX, UINT32_MAX};
constexpr uint32_t COUNTS[] = {0, 1, 2, 255, 256, 600, 65536, INT32_MAX, UINT32_MAX};

void choose_options(fuzz::Input &input, v2e_memory_options &options) {
    options.struct_size = input.byte() == 255 ? 40 : sizeof options;
    options.context_length = input.pick(COUNTS);
    options.kv_precision = input.byte() % 5;
    options.prefill_chunk = input.pick(COUNTS);
    constexpr uint32_t threads[] = {1, 2, 1025, UINT32_MAX};
    options.threads = input.pick(threads);
    options.activations = input.byte() % 3;
    options.keep_vision = input.byte() % 2;
    options.conversation = input.byte() % 2;
    options.process_bytes = input.pick(BYTES);
    options.vision_cache_bytes = input.pick(BYTES);
    options.prefix_cache_bytes = input.pick(BYTES);
    options.no_prefix_cache = options.prefix_cache_bytes == 0;
    options.device = (input.byte() + V2E_DEVICE_CPU) % 4;
    options.gpu_layers = input.pick(COUNTS);
    options.gpu_memory = input.pick(BYTES);
    input.byte(); // so that what was found before goes on to mean what it meant
    options.offload_weights = input.byte() % 2;
}

// A picture as v2e_plan_picture makes it, or with numbers that a caller made up.
v2e_geometry choose_picture(fuzz::Input &input) {
    v2e_geometry_options options{};
    options.struct_size = sizeof options;
    options.tile_size = 6;
    options.tokens_per_side = 2;
    v2e_geometry picture{};
    picture.struct_size = sizeof picture;
    const uint32_t width = input.pick(SIDES), height = input.pick(SIDES);
    if (input.byte() % 4 != 0) {
        fuzz::seen(v2e_plan_picture(width, height, &options, &picture));
        return picture;
    }
    picture.width = width;
    picture.height = height;
    picture.tile_count = input.pick(COUNTS);
    picture.siglip_tokens = input.pick(COUNTS);
    picture.eagle_patches = input.pick(COUNTS);
    picture.eagle_tokens = input.pick(COUNTS);
    return picture;
}

void check_plan(const v2e_memory_options &options, const v2e_memory_plan &plan) {
    MUST(plan.struct_size == sizeof plan);
    MUST(plan.context_length > 0 && plan.picture_tokens < plan.context_length);
    for (const uint64_t phase : {plan.tiles_phase_bytes, plan.eagle_phase_bytes, plan.answer_phase_bytes})
        MUST(plan.peak_bytes >= phase);
    for (const uint64_t part : {plan.process_bytes, plan.decoder_bytes, plan.embedding_bytes, plan.kv_bytes,
                                plan.scratch_bytes, plan.prefix_cache_bytes, plan.vision_cache_bytes})
        MUST(plan.answer_phase_bytes >= part);
    if (options.picture_count > 0)
        for (const uint64_t part :
             {plan.process_bytes, plan.picture_bytes, plan.siglip_bytes, plan.projector_bytes, plan.siglip_work_bytes})
            MUST(plan.tiles_phase_bytes >= part);
}

// What is wanted stays where it fits; else a choice keeps the limit or names one that would do, which then does.
void check_choice(const std::string &directory, const v2e_memory_options &options, uint64_t wanted_bytes,
                  uint64_t limit_bytes) {
    v2e_memory_choice choice{};
    choice.struct_size = sizeof choice;
    v2e_memory_plan plan{};
    plan.struct_size = sizeof plan;
    const v2e_status status = fuzz::seen(v2e_choose_memory(directory.c_str(), limit_bytes, &options, &choice, &plan));
    MUST(status == V2E_OK || status == V2E_ERROR_BUDGET);
    if (status != V2E_OK) {
        MUST(limit_bytes != 0 && wanted_bytes > limit_bytes);
        return;
    }
    check_plan(options, plan);
    MUST(std::memchr(choice.changes, '\0', sizeof choice.changes) != nullptr);
    MUST(limit_bytes == 0 || plan.peak_bytes <= limit_bytes);
    const bool fits = limit_bytes == 0 || wanted_bytes <= limit_bytes;
    MUST(fits == (choice.changes[0] == '\0'));
    MUST(!fits || plan.peak_bytes == wanted_bytes);
}

// The room that a question leaves in a context of any length.
void check_room(fuzz::Input &input, const v2e_geometry_options &geometry, const v2e_memory_options &options) {
    v2e_context_question question{};
    question.struct_size = sizeof question;
    question.pictures = options.pictures;
    question.picture_count = options.picture_count;
    question.geometry = input.byte() % 2 != 0 ? &geometry : nullptr;
    question.video = input.byte() % 2;
    question.text_tokens = question.fresh_text_tokens = input.pick(BYTES);
    question.context_length = input.pick(COUNTS);
    question.used = input.pick(BYTES);
    question.max_context = input.pick(COUNTS);
    const v2e_status status = fuzz::seen(v2e_check_context(&question));
    MUST(status == V2E_OK || status == V2E_ERROR_BUDGET || status == V2E_ERROR_INPUT);
    MUST(status != V2E_OK || question.text_tokens < question.context_length);
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    constexpr size_t OPTION_BYTES = 64;
    if (size < OPTION_BYTES)
        return 0;
    static const fuzz::ScratchDirectory scratch;
    static const std::string directory = scratch.file("bundle");
    static const bool written = (fuzz::write_bundle(directory, "int4"), true);
    fuzz::Input texts(data + OPTION_BYTES, size - OPTION_BYTES);
    fuzz::write_file(directory + "/decoder/decoder.safetensors", fuzz::safetensors(texts.line(), ""));
    fuzz::write_file(directory + "/valley2.json", texts.rest());

    fuzz::Input choices(data, OPTION_BYTES);
    v2e_memory_options options{};
    choose_options(choices, options);
    v2e_geometry pictures[3];
    options.picture_count = choices.byte() % 4;
    for (size_t i = 0; i < options.picture_count; ++i)
        pictures[i] = choose_picture(choices);
    options.pictures = pictures;
    v2e_geometry_options geometry{};
    geometry.struct_size = sizeof geometry;
    geometry.tile_size = 6;
    geometry.tokens_per_side = 2;
    geometry.no_tiles = choices.byte() % 2;
    geometry.no_eagle = choices.byte() % 2;
    geometry.eagle_min_pixels = choices.pick(BYTES);
    geometry.eagle_max_pixels = choices.pick(BYTES);
    options.geometry = choices.byte() % 2 != 0 ? &geometry : nullptr;
    const uint64_t limit_bytes = choices.pick(BYTES) / (1 + choices.byte());
    check_room(choices, geometry, options);
    v2e_memory_plan plan{};
    plan.struct_size = sizeof plan;
    if (fuzz::seen(v2e_plan_memory(directory.c_str(), &options, &plan)) != V2E_OK)
        return 0;
    MUST(written);
    check_plan(options, plan);
    for (const uint64_t limit : {limit_bytes, plan.peak_bytes, plan.peak_bytes - (plan.peak_bytes > 0 ? 1 : 0)})
        check_choice(directory, options, plan.peak_bytes, limit);
    return 0;
}
