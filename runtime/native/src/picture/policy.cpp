#include "picture/policy.hpp"

#include "base/error.hpp"

#include <algorithm>

namespace v2e {
namespace {

constexpr uint64_t TOKEN_PIXELS = uint64_t{EAGLE_FACTOR} * EAGLE_FACTOR; // of the Eagle picture, for one token
constexpr uint64_t LEAST_TOKENS = 4;
constexpr size_t REPO_PICTURE_LIMIT = 8;
constexpr size_t MOST_CANVASES = 1024;
constexpr uint64_t MOST_SIDE = 1 << 16; // of a canvas, pixels
constexpr uint64_t MOST_IMAGE = 4096;   // pixels
constexpr uint64_t MOST_TOKENS = 1 << 24;

// Tokens of a picture.
uint64_t cap_of(EaglePreset preset, bool several) {
    switch (preset) {
    case EaglePreset::fast:
        return 256;
    case EaglePreset::balanced:
        return several ? 196 : 729;
    case EaglePreset::document:
        return 1280;
    case EaglePreset::full:
        break;
    }
    return 16384;
}

uint32_t bounded(const Json &value, const char *name, uint64_t most) {
    const uint64_t number = value.unsigned_integer();
    if (number == 0 || number > most)
        fail(V2E_ERROR_BUNDLE, "The manifest's %s is out of range.", name);
    return static_cast<uint32_t>(number);
}

} // namespace

PictureArchitecture PictureArchitecture::read(const Json &architecture) {
    const Json picture = architecture.at("picture"), siglip = architecture.at("siglip");
    PictureArchitecture read;
    read.image_size = bounded(siglip.at("image_size"), "image_size", MOST_IMAGE);
    read.tokens_per_side = bounded(architecture.at("projector").at("tokens_per_side"), "tokens_per_side", MOST_IMAGE);
    read.has_eagle = architecture.at("eagle").kind() != Json::Kind::null;
    read.anyres = picture.at("anyres").boolean();
    read.only_crop_single_image = picture.at("only_crop_single_image").boolean();
    read.max_vision_token = bounded(picture.at("max_vision_token"), "max_vision_token", MOST_TOKENS);
    const std::vector<Json> canvases = picture.at("canvases").items();
    if (canvases.size() > MOST_CANVASES)
        fail(V2E_ERROR_BUNDLE, "The manifest names %zu canvases; at most %zu are possible.", canvases.size(),
             MOST_CANVASES);
    for (const Json &canvas : canvases) {
        const std::vector<Json> sides = canvas.items();
        if (sides.size() != 2)
            fail(V2E_ERROR_BUNDLE, "A canvas of the manifest is no pair of width and height.");
        read.canvases.push_back({bounded(sides[0], "canvas", MOST_SIDE), bounded(sides[1], "canvas", MOST_SIDE)});
    }
    return read;
}

EagleRange PicturePolicy::eagle_tokens(bool several) const {
    const uint64_t cap = eagle_max_tokens ? *eagle_max_tokens : cap_of(preset, several);
    if (!eagle_min_tokens)
        return {std::min(LEAST_TOKENS, cap), cap};
    // A minimum that the caller names lifts a preset's cap.
    return {*eagle_min_tokens, eagle_max_tokens ? cap : std::max<uint64_t>(cap, *eagle_min_tokens)};
}

GeometryOptions PicturePolicy::geometry_options(const PictureArchitecture &architecture, size_t picture_count,
                                                bool video) const {
    // DIFFERS: the reference counts the pictures of the whole conversation; here those of the question count, because
    // earlier ones are in the KV cache already.
    const bool cut_several = name == PolicyName::repo || !architecture.only_crop_single_image;
    const EagleRange range = eagle_tokens(video || picture_count > 1);
    std::vector<uint32_t> canvases; // (canvas_count, 2)
    for (const Size canvas : architecture.canvases)
        canvases.insert(canvases.end(), {canvas.width, canvas.height});
    v2e_geometry_options given{};
    given.struct_size = sizeof given;
    given.tile_size = architecture.image_size;
    given.tokens_per_side = architecture.tokens_per_side;
    given.no_tiles = tiles && architecture.anyres && (picture_count == 1 || cut_several) ? 0 : 1;
    given.no_unpad = architecture.has_eagle ? 0 : 1;
    given.max_vision_token = architecture.max_vision_token;
    given.no_eagle = eagle && architecture.has_eagle ? 0 : 1;
    given.eagle_min_pixels = range.least * TOKEN_PIXELS;
    given.eagle_max_pixels = range.most * TOKEN_PIXELS;
    given.canvases = canvases.data();
    given.canvas_count = architecture.canvases.size();
    if (range.least == 0 || range.least > range.most)
        fail(V2E_ERROR_INPUT, "eagle_min_tokens is %llu, which is not from 1 to the cap of %llu Eagle tokens.",
             static_cast<unsigned long long>(range.least), static_cast<unsigned long long>(range.most));
    return complete_options(&given);
}

std::optional<size_t> PicturePolicy::picture_limit() const {
    // DIFFERS: only strict repo leaves pictures out after the eighth, as the reference does in silence.
    if (name == PolicyName::repo && strict)
        return REPO_PICTURE_LIMIT;
    return std::nullopt;
}

} // namespace v2e
