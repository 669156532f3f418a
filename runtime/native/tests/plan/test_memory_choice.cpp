// What a limit costs, with costs that are made up: each thing that can be given up has its price.
#include "plan/memory_choice.hpp"
#include "tests/check.hpp"

#include <cstring>
#include <string>

using namespace v2e;

namespace {

constexpr uint64_t MIB = uint64_t{1} << 20;

// Costs of one question with a picture; every part is larger than the rounding of the others.
v2e_memory_plan made_up_plan(const v2e_memory_options &options) {
    v2e_memory_plan plan{};
    plan.struct_size = sizeof plan;
    plan.context_length = options.context_length == 0 ? 8192 : options.context_length;
    plan.picture_tokens = 900;
    plan.decoder_bytes = 4000 * MIB;
    const uint64_t halves = options.kv_precision == V2E_KV_FP32 ? 4 : options.kv_precision == V2E_KV_INT8 ? 1 : 2;
    plan.kv_bytes = plan.context_length * halves * 8192;
    plan.scratch_bytes = (options.prefill_chunk == 0 ? 256 : options.prefill_chunk) * MIB / 4;
    plan.vision_cache_bytes = options.vision_cache_bytes;
    plan.prefix_cache_bytes = options.no_prefix_cache != 0 ? 0 : options.prefix_cache_bytes;
    plan.siglip_bytes = options.keep_vision != 0 ? 500 * MIB : 0;
    uint64_t pictures = 100 * MIB;
    if (options.geometry != nullptr) {
        pictures += options.geometry->no_tiles != 0 ? 0 : 50 * MIB;
        const uint64_t tokens = options.geometry->eagle_max_pixels / (28 * 28);
        pictures += options.geometry->no_eagle != 0 ? 0 : 300 * MIB + tokens * MIB / 4;
    }
    plan.picture_bytes = pictures;
    plan.peak_bytes = options.process_bytes + plan.decoder_bytes + plan.kv_bytes + plan.scratch_bytes +
                      plan.vision_cache_bytes + plan.prefix_cache_bytes + plan.siglip_bytes + plan.picture_bytes;
    return plan;
}

struct Asked {
    v2e_geometry_options geometry{};
    v2e_memory_options options{};

    Asked() {
        geometry.struct_size = sizeof geometry;
        geometry.eagle_max_pixels = 729 * 28 * 28;
        options.struct_size = sizeof options;
        options.geometry = &geometry;
        options.keep_vision = 1;
        options.vision_cache_bytes = 256 * MIB;
        options.prefix_cache_bytes = 128 * MIB;
        options.process_bytes = 70 * MIB;
    }

    uint64_t peak() const { return made_up_plan(options).peak_bytes; }
    MemoryChoice choose(uint64_t limit) const { return choose_memory("my-bundle", limit, options, made_up_plan); }
    std::string changes(uint64_t limit) const { return choose(limit).options.changes; }
};

} // namespace

TEST_CASE("a choice leaves what fits as it was asked for, up to the last byte") {
    const Asked asked;
    const MemoryChoice choice = asked.choose(asked.peak());
    CHECK(std::string(choice.options.changes).empty());
    CHECK(choice.plan.peak_bytes == asked.peak());
    CHECK(choice.options.keep_vision == 1);
    CHECK(choice.options.context_length == 0);
    CHECK(choice.options.prefill_chunk == 0);
    CHECK(choice.options.eagle_max_tokens == 0);
    CHECK(choice.options.vision_cache_bytes == 256 * MIB);
    CHECK(asked.changes(0).empty()); // no limit
    CHECK(asked.changes(asked.peak() - 1) == "vision engines are freed after use");
}

TEST_CASE("a choice takes what costs nothing but time first") {
    const Asked asked;
    uint64_t limit = asked.peak() - 500 * MIB;
    CHECK(asked.changes(limit) == "vision engines are freed after use");
    CHECK(asked.changes(limit - 1) == "vision engines are freed after use\n128.0 MiB of earlier pictures kept");
    limit -= 256 * MIB;
    CHECK(asked.changes(limit) == "vision engines are freed after use\n0 B of earlier pictures kept");
    limit -= 128 * MIB;
    CHECK(asked.changes(limit) == "vision engines are freed after use\n0 B of earlier pictures kept\n0 B of earlier KV "
                                  "pages kept");
    limit -= 48 * MIB;
    const MemoryChoice chunk = asked.choose(limit);
    CHECK(doctest::String(chunk.options.changes) == doctest::Contains("prefill in chunks of 64"));
    CHECK(chunk.options.no_prefix_cache == 1);
    // 256 positions of 16 KiB take 4 MiB.
    CHECK(asked.choose(limit - 1).options.context_length == 8192 - 256);
    CHECK(asked.choose(limit - 8 * MIB).options.context_length == 8192 - 512);
}

TEST_CASE("a choice takes back what there is room for") {
    const Asked asked;
    // Only the engines are large enough, but a smaller cache alone would not have been.
    CHECK(asked.changes(asked.peak() - 300 * MIB) == "vision engines are freed after use");
    // Without a context to shorten the precision is next, which saves enough for the chunk to stay as it was.
    Asked fixed;
    fixed.options.context_length = 8192;
    fixed.options.keep_vision = 0;
    fixed.options.vision_cache_bytes = 0;
    fixed.options.no_prefix_cache = 1;
    CHECK(fixed.changes(fixed.peak() - 60 * MIB) == "KV cache in int8");
}

TEST_CASE("a choice shortens a context no further than for the pictures and 1024 positions") {
    Asked asked;
    asked.options.kv_precision = V2E_KV_INT8;
    const v2e_memory_choice least = asked.choose(4000 * MIB + 70 * MIB + 100 * MIB + 16 * MIB + 2048 * 8192).options;
    CHECK(least.context_length == 2048); // 900 and 1024 in pages of 256
    CHECK(least.no_eagle == 1);
    CHECK(least.no_tiles == 1);
}

TEST_CASE("a choice lowers the Eagle tokens no further than needed, and to 64 before the tiles go") {
    Asked asked;
    asked.options.keep_vision = 0;
    asked.options.vision_cache_bytes = 0;
    asked.options.no_prefix_cache = 1;
    asked.options.prefill_chunk = 64;
    asked.options.context_length = 1024;
    asked.options.kv_precision = V2E_KV_INT8;
    const uint64_t peak = asked.peak();
    CHECK(asked.changes(peak - MIB / 4) == "at most 728 Eagle tokens a picture");
    CHECK(asked.choose(peak - MIB / 4 - 1).options.eagle_max_tokens == 727);
    CHECK(asked.changes(peak - 665 * MIB / 4) == "at most 64 Eagle tokens a picture");
    CHECK(asked.changes(peak - 665 * MIB / 4 - 50 * MIB) == "at most 64 Eagle tokens a picture\nno tiles");
    // Without the branch there is room for the tiles again.
    CHECK(asked.changes(peak - 300 * MIB) == "no Eagle branch");
    const MemoryChoice without = asked.choose(peak - 300 * MIB);
    CHECK(without.options.no_eagle == 1);
    CHECK(without.options.no_tiles == 0);
}

TEST_CASE("a choice keeps the fewest Eagle tokens that were asked for") {
    Asked asked;
    asked.geometry.eagle_min_pixels = 700 * 28 * 28;
    asked.options.keep_vision = 0;
    CHECK(asked.choose(1 + 4000 * MIB + 70 * MIB + 500 * MIB).options.eagle_max_tokens == 0);
    bool fewer = false;
    for (uint64_t limit = 4400 * MIB; limit < asked.peak(); limit += MIB / 4) {
        const uint32_t tokens = asked.choose(limit).options.eagle_max_tokens;
        fewer = fewer || tokens > 0;
        CHECK((tokens == 0 || tokens >= 700));
    }
    CHECK(fewer);
}

TEST_CASE("a choice without geometry gives up nothing of the pictures") {
    Asked asked;
    asked.options.geometry = nullptr;
    const uint64_t least = 70 * MIB + 4000 * MIB + 2048 * 8192 + 16 * MIB + 100 * MIB;
    const v2e_memory_choice choice = asked.choose(least).options;
    CHECK(choice.no_tiles == 0);
    CHECK(choice.eagle_max_tokens == 0);
    CHECK_FAILS(V2E_ERROR_BUDGET, "for a context of 2048; ", asked.choose(least - 1));
}

TEST_CASE("a choice rounds no KV cache of a backend") {
    Asked asked;
    const v2e_backend backend{};
    asked.options.decoder_backend = &backend;
    for (uint64_t limit = 4300 * MIB; limit < asked.peak(); limit += 10 * MIB)
        CHECK(asked.choose(limit).options.kv_precision == V2E_KV_AUTO);
}

TEST_CASE("a refused limit names what is needed and what would fit") {
    const Asked asked;
    const uint64_t least = 70 * MIB + 4000 * MIB + 2048 * 8192 + 16 * MIB + 100 * MIB; // 4202 MiB
    CHECK_FAILS(V2E_ERROR_BUDGET,
                "my-bundle does not fit 1.0 GiB of memory: the least that it needs is 4.1 GiB, 3.9 GiB of it decoder "
                "weights and 16.0 MiB KV cache, for a context of 2048 without the Eagle branch; 4224MiB would fit.",
                asked.choose(1024 * MIB));
    CHECK_FAILS(V2E_ERROR_BUDGET, "4224MiB would fit.", asked.choose(least - 1));
    CHECK(asked.choose(least).plan.peak_bytes == least);
    CHECK(asked.choose(4224 * MIB).plan.peak_bytes <= 4224 * MIB);
}

TEST_CASE("what cannot be, whatever the limit, is not taken for a matter of memory") {
    const Asked asked;
    const auto planner = [](const v2e_memory_options &options) -> v2e_memory_plan {
        if (options.prefill_chunk == 64)
            fail(V2E_ERROR_BUDGET, "Not a single layer fits.");
        return made_up_plan(options);
    };
    CHECK_FAILS(V2E_ERROR_BUDGET, "Not a single layer fits.", choose_memory("it", MIB, asked.options, planner));
    const auto refusing = [](const v2e_memory_options &) -> v2e_memory_plan { fail(V2E_ERROR_INPUT, "no number"); };
    CHECK_FAILS(V2E_ERROR_INPUT, "no number", choose_memory("it", MIB, asked.options, refusing));
}

TEST_CASE("the calls about limits refuse what they cannot use") {
    v2e_memory_options options{};
    v2e_memory_choice choice{};
    v2e_gpu_share share{};
    CHECK(v2e_choose_memory("/no/such/bundle", 1, &options, &choice, nullptr) == V2E_ERROR_INPUT);
    options.struct_size = sizeof options;
    CHECK(v2e_choose_memory(nullptr, 1, &options, &choice, nullptr) == V2E_ERROR_INPUT);
    CHECK(v2e_choose_memory("/no/such/bundle", 1, &options, &choice, nullptr) == V2E_ERROR_BUNDLE);
    CHECK(v2e_share_gpu(nullptr, &options, &share, nullptr) == V2E_ERROR_INPUT);
    CHECK(v2e_share_gpu("/no/such/bundle", &options, &share, nullptr) == V2E_ERROR_BUNDLE);
}
