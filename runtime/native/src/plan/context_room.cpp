#include "plan/context_room.hpp"

#include "base/error.hpp"
#include "base/saturating.hpp"
#include "decoder/kv_cache.hpp"
#include "picture/geometry.hpp"
#include "picture/policy.hpp"
#include "plan/picture_plan.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace v2e {
namespace {

// Positions to leave for the answer: what an answer takes, or else what a token takes.
constexpr uint64_t ANSWER_POSITIONS[] = {64, 1};
// Eagle tokens of a picture, fewer than which the branch is better left out.
constexpr uint64_t SMALL_CAPS[] = {128, 64};

struct NamedPreset {
    const char *name;
    EaglePreset preset;
};
// From the largest to the smallest; nothing is larger than the one that is left out.
constexpr NamedPreset PRESETS[] = {
    {"document", EaglePreset::document}, {"balanced", EaglePreset::balanced}, {"fast", EaglePreset::fast}};

// A way in which pictures take fewer positions.
struct Smaller {
    std::string words;
    GeometryOptions options;
};

GeometryOptions options_of(const v2e_geometry_options *given) {
    v2e_geometry_options defaults{};
    defaults.struct_size = sizeof defaults;
    return complete_options(given == nullptr ? &defaults : given);
}

class Room {
  public:
    explicit Room(const v2e_context_question &question)
        : question_(question), options_(options_of(question.geometry)),
          alone_(question.alone == nullptr ? options_ : options_of(question.alone)),
          vision_(tokens(question.picture_count, options_)) {}

    bool fits() const { return needed(vision_, 1) <= free(); }

    std::string refusal() const {
        const Saturating whole = Saturating(question_.text_tokens) + vision_;
        std::string text = "The question needs " + std::to_string(whole.value()) + " positions (" +
                           std::to_string(question_.text_tokens) + " for text, " + std::to_string(vision_) +
                           " for pictures) and one for the answer, but only " + std::to_string(free()) +
                           " of the context's " + std::to_string(question_.context_length) + " are free";
        std::vector<std::string> ways;
        for (const uint64_t answer : ANSWER_POSITIONS)
            if (ways.empty())
                ways = ways_for(answer);
        if (ways.empty())
            return text + "; ask a shorter question.";
        text += ". It would fit with " + ways.front();
        for (size_t i = 1; i < ways.size(); ++i)
            text += " or " + ways[i];
        return text + ".";
    }

  private:
    // Positions that the first pictures take.
    uint64_t tokens(size_t count, const GeometryOptions &options) const {
        return picture_tokens(question_.pictures, count, options);
    }

    uint64_t free() const { return (Saturating(question_.context_length) - question_.used).value(); }

    // Positions of the question and the answer.
    Saturating needed(uint64_t vision, uint64_t answer) const {
        return Saturating(question_.text_tokens) + vision + answer;
    }

    // What would make the question fit: smaller pictures, fewer, a longer context, a new conversation.
    std::vector<std::string> ways_for(uint64_t answer) const {
        std::vector<std::string> ways;
        if (question_.picture_count > 0)
            for (const Smaller &smaller : smaller_pictures())
                if (needed(tokens(question_.picture_count, smaller.options), answer) <= free()) {
                    ways.push_back(smaller.words);
                    break;
                }
        if (const size_t fewer = fewer_pictures(answer); fewer > 0) {
            const std::string count = std::to_string(fewer);
            ways.push_back(question_.video != 0 ? "--frames " + count
                                                : "the first " + count + " of the " +
                                                      std::to_string(question_.picture_count) + " pictures");
        }
        const Saturating context = needed(vision_, answer) + question_.used;
        if (context > question_.context_length && context <= question_.max_context) {
            const Saturating pages = (context + (KV_PAGE - 1)) / KV_PAGE * KV_PAGE;
            ways.push_back("--context-length " +
                           std::to_string(std::min(pages, Saturating(question_.max_context)).value()));
        }
        if (question_.used > 0 &&
            Saturating(question_.fresh_text_tokens) + vision_ + answer <= question_.context_length)
            ways.emplace_back("a new conversation (/reset)");
        return ways;
    }

    // Those that lose least first.
    std::vector<Smaller> smaller_pictures() const {
        std::vector<Smaller> ways = options_.eagle ? smaller_caps() : std::vector<Smaller>();
        const Smaller smallest = ways.empty() ? Smaller{"", options_} : ways.back();
        if (options_.tiled) {
            ways.push_back({"--no-tiles", options_});
            ways.back().options.tiled = false;
            if (!smallest.words.empty()) {
                ways.push_back({smallest.words + " --no-tiles", smallest.options});
                ways.back().options.tiled = false;
            }
        }
        if (!options_.eagle)
            return ways;
        ways.push_back({"--no-eagle", options_});
        ways.back().options.eagle = false;
        if (options_.tiled) {
            ways.push_back({"--no-eagle --no-tiles", ways.back().options});
            ways.back().options.tiled = false;
        }
        return ways;
    }

    std::vector<Smaller> smaller_caps() const {
        std::vector<Smaller> ways;
        const bool several = question_.video != 0 || question_.picture_count > 1;
        const uint64_t cap = eagle_cap(options_), least = eagle_floor(options_);
        const auto add = [&](const std::string &words, uint64_t tokens) {
            ways.push_back({words, options_});
            ways.back().options.eagle_max_pixels = eagle_pixels(tokens);
        };
        for (const NamedPreset &named : PRESETS) {
            PicturePolicy policy;
            policy.preset = named.preset;
            // A least number that the caller names lifts a preset's cap.
            const uint64_t tokens = std::max(policy.eagle_tokens(several).most, least);
            if (tokens < cap)
                add(std::string("--eagle-preset ") + named.name, tokens);
        }
        for (const uint64_t tokens : SMALL_CAPS)
            if (least <= tokens && tokens < cap)
                add("--eagle-max-tokens " + std::to_string(tokens), tokens);
        return ways;
    }

    // The most of the first pictures that fit; 0: not even one, or all of them.
    size_t fewer_pictures(uint64_t answer) const {
        size_t low = 0, high = question_.picture_count;
        if (high < 2)
            return 0;
        while (high - low > 1) {
            const size_t middle = low + (high - low) / 2;
            const bool fit = needed(tokens(middle, middle == 1 ? alone_ : options_), answer) <= free();
            (fit ? low : high) = middle;
        }
        return low;
    }

    const v2e_context_question &question_;
    GeometryOptions options_, alone_;
    uint64_t vision_; // positions that the pictures take
};

} // namespace

void check_context(const v2e_context_question &question) {
    const Room room(question);
    if (!room.fits())
        throw Failure{V2E_ERROR_BUDGET, room.refusal()};
}

} // namespace v2e
