#include "plan/memory_choice.hpp"

#include "base/byte_count.hpp"
#include "base/error.hpp"
#include "decoder/kv_cache.hpp"
#include "generation/prefix_cache.hpp"
#include "picture/geometry.hpp"
#include "plan/give_up.hpp"
#include "plan/picture_plan.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <vector>

namespace v2e {
namespace {

// Fewest positions for question and answer when the context is shortened.
constexpr uint64_t TEXT_POSITIONS = 1024;
// Eagle tokens of a picture, fewer than which the branch is better left out.
constexpr uint64_t FEWEST_EAGLE_TOKENS = 64;
constexpr std::array<uint32_t, 2> CHUNKS = {128, 64};
// From the largest to the smallest.
constexpr std::array<uint32_t, 3> KV_PRECISIONS = {V2E_KV_FP32, V2E_KV_FP16, V2E_KV_INT8};
constexpr std::array<const char *, 3> KV_PRECISION_NAMES = {"fp32", "fp16", "int8"};
// What is left of a cache at each level.
constexpr std::array<uint64_t, 3> CACHE_DIVISORS = {2, 4, 0};

uint64_t cache_bytes(uint64_t wanted, uint64_t level) {
    if (level == 0)
        return wanted;
    const uint64_t divisor = CACHE_DIVISORS[level - 1];
    return divisor == 0 ? 0 : wanted / divisor;
}

// What is wanted, and the steps in which it becomes less.
class Wish {
  public:
    // The plan is that of what is wanted.
    Wish(const v2e_memory_options &wanted, const v2e_memory_plan &plan) : wanted_(wanted) {
        vision_cache_ = wanted.vision_cache_bytes;
        prefix_cache_ = prefix_cache_budget(wanted.prefix_cache_bytes, wanted.no_prefix_cache);
        const uint64_t chunk = wanted.prefill_chunk == 0 ? KV_PAGE : wanted.prefill_chunk;
        for (const uint32_t smaller : CHUNKS)
            if (smaller < chunk)
                chunks_.push_back(smaller);
        largest_context_ = plan.context_length;
        const uint64_t positions = plan.picture_tokens + TEXT_POSITIONS;
        smallest_context_ = std::min(largest_context_, (positions + KV_PAGE - 1) / KV_PAGE * KV_PAGE);
        widest_ = wanted.kv_precision == V2E_KV_FP16 ? 1 : wanted.kv_precision == V2E_KV_INT8 ? 2 : 0;
        if (wanted.geometry == nullptr)
            return;
        geometry_ = read_options(wanted.geometry);
        const GeometryOptions complete = complete_options(wanted.geometry);
        eagle_cap_ = std::min<uint64_t>(eagle_cap(complete), UINT32_MAX);
        eagle_floor_ = std::max(FEWEST_EAGLE_TOKENS, eagle_floor(complete));
    }

    // The last level of each step, in the order in which they are taken.
    Levels ends() const {
        Levels ends(STEPS, 0);
        ends[KEEP_VISION] = wanted_.keep_vision != 0;
        ends[VISION_CACHE] = vision_cache_ > 0 ? CACHE_DIVISORS.size() : 0;
        ends[PREFIX_CACHE] = prefix_cache_ > 0 ? CACHE_DIVISORS.size() : 0;
        ends[CHUNK] = chunks_.size();
        if (wanted_.context_length == 0 && first_context() >= smallest_context_)
            ends[CONTEXT] = (first_context() - smallest_context_) / KV_PAGE + 1;
        ends[KV_PRECISION] = wanted_.decoder_backend != nullptr ? 0 : KV_PRECISIONS.size() - 1 - widest_;
        if (!geometry_)
            return ends;
        ends[EAGLE_TOKENS] = eagle_cap_ > eagle_floor_ ? eagle_cap_ - eagle_floor_ : 0;
        ends[TILES] = geometry_->no_tiles == 0;
        ends[EAGLE] = geometry_->no_eagle == 0;
        return ends;
    }

    v2e_memory_choice at(const Levels &levels) const {
        v2e_memory_choice choice{};
        choice.struct_size = sizeof choice;
        choice.keep_vision = levels[KEEP_VISION] > 0 ? 0 : wanted_.keep_vision;
        choice.vision_cache_bytes = cache_bytes(vision_cache_, levels[VISION_CACHE]);
        choice.prefix_cache_bytes = cache_bytes(prefix_cache_, levels[PREFIX_CACHE]);
        choice.no_prefix_cache = choice.prefix_cache_bytes == 0;
        choice.prefill_chunk = levels[CHUNK] > 0 ? chunks_[levels[CHUNK] - 1] : wanted_.prefill_chunk;
        choice.context_length = levels[CONTEXT] > 0
                                    ? static_cast<uint32_t>(first_context() - (levels[CONTEXT] - 1) * KV_PAGE)
                                    : wanted_.context_length;
        choice.kv_precision =
            levels[KV_PRECISION] > 0 ? KV_PRECISIONS[widest_ + levels[KV_PRECISION]] : wanted_.kv_precision;
        if (geometry_) {
            choice.no_tiles = levels[TILES] > 0 || geometry_->no_tiles != 0;
            choice.no_eagle = levels[EAGLE] > 0 || geometry_->no_eagle != 0;
        }
        if (levels[EAGLE_TOKENS] > 0)
            choice.eagle_max_tokens = static_cast<uint32_t>(eagle_cap_ - levels[EAGLE_TOKENS]);
        return choice;
    }

    // What the plan of a choice costs.
    v2e_memory_plan plan(const v2e_memory_choice &choice, const MemoryPlanner &planner) const {
        v2e_memory_options options = wanted_;
        options.keep_vision = choice.keep_vision;
        options.vision_cache_bytes = choice.vision_cache_bytes;
        options.prefix_cache_bytes = choice.prefix_cache_bytes;
        options.no_prefix_cache = choice.no_prefix_cache;
        options.prefill_chunk = choice.prefill_chunk;
        options.context_length = choice.context_length;
        options.kv_precision = choice.kv_precision;
        if (!geometry_)
            return planner(options);
        v2e_geometry_options geometry = *geometry_;
        geometry.no_tiles = choice.no_tiles;
        geometry.no_eagle = choice.no_eagle;
        if (choice.eagle_max_tokens > 0)
            geometry.eagle_max_pixels = eagle_pixels(choice.eagle_max_tokens);
        options.geometry = &geometry;
        return planner(options);
    }

    // What is not as it is wanted, a line each.
    std::string changes(const Levels &levels, const v2e_memory_choice &choice) const {
        std::vector<std::string> lines;
        if (levels[KEEP_VISION] > 0)
            lines.emplace_back("vision engines are freed after use");
        if (levels[VISION_CACHE] > 0)
            lines.push_back(format_bytes(choice.vision_cache_bytes) + " of earlier pictures kept");
        if (levels[PREFIX_CACHE] > 0)
            lines.push_back(format_bytes(choice.prefix_cache_bytes) + " of earlier KV pages kept");
        if (levels[CHUNK] > 0)
            lines.push_back("prefill in chunks of " + std::to_string(choice.prefill_chunk));
        if (levels[CONTEXT] > 0)
            lines.push_back("a context of " + std::to_string(choice.context_length));
        if (levels[KV_PRECISION] > 0)
            lines.push_back(std::string("KV cache in ") + KV_PRECISION_NAMES[widest_ + levels[KV_PRECISION]]);
        if (levels[EAGLE] > 0)
            lines.emplace_back("no Eagle branch");
        else if (levels[EAGLE_TOKENS] > 0)
            lines.push_back("at most " + std::to_string(choice.eagle_max_tokens) + " Eagle tokens a picture");
        if (levels[TILES] > 0)
            lines.emplace_back("no tiles");
        std::string text;
        for (const std::string &line : lines)
            text += (text.empty() ? "" : "\n") + line;
        return text;
    }

  private:
    enum Step {
        KEEP_VISION,
        VISION_CACHE,
        PREFIX_CACHE,
        CHUNK,
        CONTEXT,
        KV_PRECISION,
        EAGLE_TOKENS,
        TILES,
        EAGLE,
        STEPS
    };

    // The longest context of whole pages; the steps after it are a page each.
    uint64_t first_context() const { return largest_context_ / KV_PAGE * KV_PAGE; }

    v2e_memory_options wanted_;
    uint64_t vision_cache_ = 0, prefix_cache_ = 0; // bytes
    std::vector<uint32_t> chunks_;
    uint64_t largest_context_ = 0, smallest_context_ = 0;
    size_t widest_ = 0; // of KV_PRECISIONS
    std::optional<v2e_geometry_options> geometry_;
    uint64_t eagle_cap_ = 0, eagle_floor_ = 0; // tokens
};

[[noreturn]] void refuse(const std::string &name, uint64_t limit_bytes, const v2e_memory_choice &least,
                         const v2e_memory_plan &plan) {
    fail(V2E_ERROR_BUDGET,
         "%s does not fit %s of memory: the least that it needs is %s, %s of it decoder weights and %s KV cache, for a "
         "context of %u%s; %lluMiB would fit.",
         name.c_str(), format_bytes(limit_bytes).c_str(), format_bytes(plan.peak_bytes).c_str(),
         format_bytes(plan.decoder_bytes).c_str(), format_bytes(plan.kv_bytes).c_str(),
         static_cast<unsigned>(plan.context_length), least.no_eagle != 0 ? " without the Eagle branch" : "",
         static_cast<unsigned long long>(fitting_mebibytes(plan.peak_bytes)));
}

} // namespace

MemoryChoice choose_memory(const std::string &name, uint64_t limit_bytes, const v2e_memory_options &wanted,
                           const MemoryPlanner &planner) {
    const v2e_memory_plan whole = planner(wanted);
    const Wish wish(wanted, whole);
    MemoryChoice tried{}, fitting{}; // what was looked at last
    std::optional<Failure> failure;  // what was tried last cannot be, whatever the limit
    const auto fits = [&](const Levels &levels) {
        tried.options = wish.at(levels);
        failure.reset();
        try {
            tried.plan = levels == Levels(levels.size(), 0) ? whole : wish.plan(tried.options, planner);
        } catch (const Failure &thrown) {
            if (thrown.status != V2E_ERROR_BUDGET)
                throw;
            failure = thrown;
            return false;
        }
        if (limit_bytes != 0 && tried.plan.peak_bytes > limit_bytes)
            return false;
        fitting = tried;
        return true;
    };
    const std::optional<Levels> levels = give_up(wish.ends(), fits);
    if (failure && !levels)
        throw *failure;
    if (!levels)
        refuse(name, limit_bytes, tried.options, tried.plan);
    const std::string changes = wish.changes(*levels, fitting.options);
    std::snprintf(fitting.options.changes, sizeof fitting.options.changes, "%s", changes.c_str());
    return fitting;
}

MemoryChoice choose_memory(const std::string &bundle_directory, uint64_t limit_bytes, const v2e_memory_options &wanted,
                           const DeviceKind &devices) {
    return choose_memory(bundle_directory, limit_bytes, wanted, [&](const v2e_memory_options &options) {
        return plan_memory(bundle_directory, options, devices);
    });
}

void check_memory(const std::string &bundle_directory, uint64_t limit_bytes, const v2e_memory_options &options,
                  const DeviceKind &devices) {
    v2e_memory_plan plan{};
    try {
        plan = plan_memory(bundle_directory, options, devices);
    } catch (const Failure &failure) {
        if (failure.status != V2E_ERROR_BUDGET)
            throw;
        return;
    }
    if (plan.peak_bytes > limit_bytes)
        fail(V2E_ERROR_BUDGET,
             "The question needs %s of memory, more than the %s that it may take; show fewer or smaller pictures.",
             format_bytes(plan.peak_bytes).c_str(), format_bytes(limit_bytes).c_str());
}

} // namespace v2e
