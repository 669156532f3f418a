// The function of valley2_parts.h about policies.
#include "picture/policy.hpp"
#include "api/arguments.hpp"
#include "valley2_parts.h"

#include <optional>

using namespace v2e;

namespace {

constexpr size_t MOST_CANVASES = 4096;

EaglePreset preset_of(uint32_t number) {
    switch (number) {
    case V2E_EAGLE_AUTO:
    case V2E_EAGLE_BALANCED:
        return EaglePreset::balanced;
    case V2E_EAGLE_FAST:
        return EaglePreset::fast;
    case V2E_EAGLE_DOCUMENT:
        return EaglePreset::document;
    case V2E_EAGLE_FULL:
        return EaglePreset::full;
    default:
        fail(V2E_ERROR_INPUT, "eagle_preset is %u, which is no preset.", static_cast<unsigned>(number));
    }
}

std::optional<uint32_t> unless_0(uint32_t number) {
    return number == 0 ? std::nullopt : std::optional<uint32_t>(number);
}

PictureArchitecture architecture_of(const v2e_picture_architecture &given) {
    PictureArchitecture architecture;
    architecture.image_size = given.image_size;
    architecture.tokens_per_side = given.tokens_per_side;
    architecture.has_eagle = given.no_eagle == 0;
    architecture.anyres = given.no_anyres == 0;
    architecture.only_crop_single_image = given.crops_several == 0;
    architecture.max_vision_token = given.max_vision_token;
    if (given.canvas_count > MOST_CANVASES)
        fail(V2E_ERROR_INPUT, "canvas_count is %zu; at most %zu are possible.", given.canvas_count, MOST_CANVASES);
    if (given.canvas_count > 0)
        require(given.canvases, "canvases");
    for (size_t i = 0; i < given.canvas_count; ++i)
        architecture.canvases.push_back({given.canvases[2 * i], given.canvases[2 * i + 1]});
    return architecture;
}

} // namespace

v2e_status v2e_choose_geometry(const v2e_picture_policy *policy, const v2e_picture_architecture *architecture,
                               size_t picture_count, uint32_t video, v2e_geometry_options *options) {
    return guard([&] {
        const v2e_picture_policy chosen = read_options(policy);
        const v2e_picture_architecture given = read_options(architecture);
        PicturePolicy rules;
        rules.name = chosen.repo != 0 ? PolicyName::repo : PolicyName::hub;
        rules.tiles = chosen.no_tiles == 0;
        rules.eagle = chosen.no_eagle == 0;
        rules.preset = preset_of(chosen.eagle_preset);
        rules.eagle_max_tokens = unless_0(chosen.eagle_max_tokens);
        rules.eagle_min_tokens = unless_0(chosen.eagle_min_tokens);
        const GeometryOptions found = rules.geometry_options(architecture_of(given), picture_count, video != 0);
        v2e_geometry_options result{};
        result.tile_size = found.tile_size;
        result.tokens_per_side = found.tokens_per_side;
        result.no_tiles = found.tiled ? 0 : 1;
        result.no_unpad = found.unpad ? 0 : 1;
        result.max_vision_token = found.max_vision_token;
        result.no_eagle = found.eagle ? 0 : 1;
        result.eagle_min_pixels = found.eagle_min_pixels;
        result.eagle_max_pixels = found.eagle_max_pixels;
        result.canvases = given.canvas_count > 0 ? given.canvases : nullptr;
        result.canvas_count = given.canvas_count;
        write_struct(result, options, "options");
    });
}
