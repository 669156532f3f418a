// What is decided about the pictures of a question: tiles, the Eagle branch and its caps (docs/valley2.md, "Policies").
#pragma once

#include "base/json.hpp"
#include "picture/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace v2e {

// What the architecture of a bundle says about pictures.
struct PictureArchitecture {
    uint32_t image_size = 384;     // side of a SigLIP tile, pixels
    uint32_t tokens_per_side = 14; // of a tile's tokens behind the projector
    bool has_eagle = true;
    bool anyres = true;                 // pictures may be cut into tiles
    bool only_crop_single_image = true; // under `hub` several pictures of a question are not
    uint32_t max_vision_token = 100000;
    std::vector<Size> canvases; // in order of preference; empty: 1 x 1 to 3 x 3 tiles

    // The manifest's `architecture`. Fails with V2E_ERROR_BUNDLE.
    static PictureArchitecture read(const Json &architecture);
};

enum class PolicyName { hub, repo };
enum class EaglePreset { fast, balanced, document, full };

// Tokens of Eagle that one picture has at least and at most.
struct EagleRange {
    uint64_t least, most;
};

struct PicturePolicy {
    PolicyName name = PolicyName::hub;
    bool strict = false; // exactly what the reference does
    bool tiles = true;   // false: no picture is cut
    bool eagle = true;   // false: no picture goes through the Eagle branch
    EaglePreset preset = EaglePreset::balanced;
    std::optional<uint32_t> eagle_max_tokens; // in the place of the preset's cap
    std::optional<uint32_t> eagle_min_tokens; // lifts a preset's cap

    // several: the picture is one of several, or a frame of a video.
    EagleRange eagle_tokens(bool several) const;
    // How each of `picture_count` pictures of a question, frames included, becomes tiles and patches. Fails with
    // V2E_ERROR_INPUT for choices that leave no token.
    GeometryOptions geometry_options(const PictureArchitecture &architecture, size_t picture_count, bool video) const;
    // Most pictures of a question; the rest is left out. Nothing: all are used.
    std::optional<size_t> picture_limit() const;
};

} // namespace v2e
