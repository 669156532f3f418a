#include "picture/geometry.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace v2e {
namespace {

constexpr uint32_t RELEASED_TILE_SIZE = 384;
constexpr uint32_t RELEASED_TOKENS_PER_SIDE = 14;
constexpr uint32_t RELEASED_MAX_VISION_TOKEN = 100000;
constexpr uint32_t RELEASED_CANVAS_TILES = 3; // canvases from 1 x 1 to 3 x 3 tiles
constexpr uint64_t FETCH_MIN_PIXELS = 4 * 28 * 28;
constexpr uint64_t FETCH_MAX_PIXELS = 16384 * 28 * 28;
constexpr double LARGEST_EAGLE_RATIO = 200.0;
constexpr size_t MOST_CANVASES = 4096;

uint64_t area(Size size) {
    return static_cast<uint64_t>(size.width) * size.height;
}

// Python's int() of a positive double.
uint64_t truncate(double value) {
    return static_cast<uint64_t>(value);
}

uint32_t to_count(uint64_t value, const char *what) {
    if (value > LARGEST_SIDE) {
        fail(V2E_ERROR_INPUT, "The picture would have %llu %s, which is too many.",
             static_cast<unsigned long long>(value), what);
    }
    return static_cast<uint32_t>(value);
}

std::vector<Size> read_canvases(const v2e_geometry_options &given, uint32_t tile_size) {
    std::vector<Size> canvases;
    if (given.canvas_count == 0) {
        for (uint32_t columns = 1; columns <= RELEASED_CANVAS_TILES; ++columns)
            for (uint32_t rows = 1; rows <= RELEASED_CANVAS_TILES; ++rows)
                canvases.push_back({columns * tile_size, rows * tile_size});
        return canvases;
    }
    if (given.canvases == nullptr)
        fail(V2E_ERROR_INPUT, "canvas_count is %zu but canvases is NULL.", given.canvas_count);
    if (given.canvas_count > MOST_CANVASES)
        fail(V2E_ERROR_INPUT, "canvas_count is %zu; at most %zu are possible.", given.canvas_count, MOST_CANVASES);
    for (size_t index = 0; index < given.canvas_count; ++index) {
        const Size canvas{given.canvases[2 * index], given.canvases[2 * index + 1]};
        if (canvas.width == 0 || canvas.height == 0 || canvas.width % tile_size != 0 ||
            canvas.height % tile_size != 0 || canvas.width > LARGEST_SIDE || canvas.height > LARGEST_SIDE) {
            fail(V2E_ERROR_INPUT, "The canvas %u x %u is not made of whole tiles of %u x %u pixels.", canvas.width,
                 canvas.height, tile_size, tile_size);
        }
        canvases.push_back(canvas);
    }
    return canvases;
}

// Largest usable area of the picture first, least waste second, first in order third (the LLaVA-NeXT rule).
Size choose_canvas(Size picture, const std::vector<Size> &canvases) {
    Size best{};
    uint64_t best_effective = 0;
    uint64_t best_waste = 0;
    for (const Size canvas : canvases) {
        const double scale = std::min(static_cast<double>(canvas.width) / picture.width,
                                      static_cast<double>(canvas.height) / picture.height);
        const uint64_t scaled = truncate(picture.width * scale) * truncate(picture.height * scale);
        const uint64_t effective = std::min(scaled, area(picture));
        const uint64_t waste = area(canvas) - effective;
        const bool first = best.width == 0;
        if (first || effective > best_effective || (effective == best_effective && waste < best_waste)) {
            best = canvas;
            best_effective = effective;
            best_waste = waste;
        }
    }
    return best;
}

void fit_on_canvas(v2e_geometry &geometry, Size canvas) {
    const double width_scale = static_cast<double>(canvas.width) / geometry.width;
    const double height_scale = static_cast<double>(canvas.height) / geometry.height;
    geometry.resized_width = canvas.width;
    geometry.resized_height = canvas.height;
    if (width_scale < height_scale) {
        geometry.resized_height =
            static_cast<uint32_t>(std::min<double>(std::ceil(geometry.height * width_scale), canvas.height));
    } else {
        geometry.resized_width =
            static_cast<uint32_t>(std::min<double>(std::ceil(geometry.width * height_scale), canvas.width));
    }
    geometry.paste_x = (canvas.width - geometry.resized_width) / 2;
    geometry.paste_y = (canvas.height - geometry.resized_height) / 2;
}

// Tokens at the front of a side of `map` tokens that lie wholly on the padding; as many are dropped at its end.
// A very thin picture keeps nothing of an even side.
uint32_t padding_of(uint32_t map, uint32_t picture_side, double scale) {
    const uint64_t covered = truncate(picture_side * scale);
    return static_cast<uint32_t>((map - std::min<uint64_t>(covered, map)) / 2);
}

void unpad_tiles(v2e_geometry &geometry, uint32_t tokens_per_side) {
    const uint32_t map_columns = geometry.grid_columns * tokens_per_side;
    const uint32_t map_rows = geometry.grid_rows * tokens_per_side;
    geometry.kept_columns = map_columns;
    geometry.kept_rows = map_rows;
    const double picture_ratio = static_cast<double>(geometry.width) / geometry.height;
    const double map_ratio = static_cast<double>(map_columns) / map_rows;
    if (picture_ratio > map_ratio) {
        const double scale = static_cast<double>(map_columns) / geometry.width;
        geometry.kept_y = padding_of(map_rows, geometry.height, scale);
        geometry.kept_rows = map_rows - 2 * geometry.kept_y;
    } else {
        const double scale = static_cast<double>(map_rows) / geometry.height;
        geometry.kept_x = padding_of(map_columns, geometry.width, scale);
        geometry.kept_columns = map_columns - 2 * geometry.kept_x;
    }
}

// max_vision_token with unpad: the stitched map gets what the global view leaves and keeps its shape.
void cap_stitched_tiles(v2e_geometry &geometry, const GeometryOptions &options) {
    geometry.pooled_columns = geometry.kept_columns;
    geometry.pooled_rows = geometry.kept_rows;
    const int64_t view = static_cast<int64_t>(options.tokens_per_side) * options.tokens_per_side;
    const int64_t kept = static_cast<int64_t>(geometry.kept_columns) * geometry.kept_rows;
    const int64_t cap = options.max_vision_token - view;
    if (kept != 0 && kept > cap) {
        const double ratio = static_cast<double>(geometry.kept_rows) / geometry.kept_columns;
        const double columns = cap > 0 ? std::pow(static_cast<double>(cap) / ratio, 0.5) : 0.0;
        geometry.pooled_columns = static_cast<uint32_t>(columns);
        geometry.pooled_rows = static_cast<uint32_t>(columns * ratio);
        // DIFFERS: the reference goes on with an empty map, or stops at the root of a negative number.
        if (geometry.pooled_columns == 0 || geometry.pooled_rows == 0) {
            fail(V2E_ERROR_INPUT,
                 "max_vision_token is %u: the global view takes %lld tokens and the rest is not one row of the tiles "
                 "of a "
                 "%u x %u picture.",
                 options.max_vision_token, static_cast<long long>(view), geometry.width, geometry.height);
        }
    }
    const uint64_t pooled = static_cast<uint64_t>(geometry.pooled_columns) * geometry.pooled_rows;
    geometry.siglip_tokens = to_count(static_cast<uint64_t>(view) + pooled, "SigLIP tokens");
}

// max_vision_token without unpad: every tile gets an equal share, as a square.
void cap_single_tiles(v2e_geometry &geometry, const GeometryOptions &options) {
    uint32_t side = options.tokens_per_side;
    const uint64_t view = static_cast<uint64_t>(side) * side;
    if (geometry.tile_count * view > options.max_vision_token) {
        side =
            static_cast<uint32_t>(std::pow(static_cast<double>(options.max_vision_token) / geometry.tile_count, 0.5));
        if (side == 0) {
            fail(V2E_ERROR_INPUT, "max_vision_token is %u, less than one token for each of the picture's %u tiles.",
                 options.max_vision_token, geometry.tile_count);
        }
    }
    geometry.pooled_columns = side;
    geometry.pooled_rows = side;
    geometry.siglip_tokens = to_count(static_cast<uint64_t>(geometry.tile_count) * side * side, "SigLIP tokens");
}

void plan_tiles(v2e_geometry &geometry, const GeometryOptions &options) {
    geometry.tile_count = 1;
    if (options.tiled) {
        const Size canvas = choose_canvas({geometry.width, geometry.height}, options.canvases);
        geometry.grid_columns = canvas.width / options.tile_size;
        geometry.grid_rows = canvas.height / options.tile_size;
        const uint64_t tiles = static_cast<uint64_t>(geometry.grid_columns) * geometry.grid_rows;
        geometry.tile_count = to_count(tiles + 1, "tiles");
        to_count(geometry.tile_count * static_cast<uint64_t>(options.tokens_per_side) * options.tokens_per_side,
                 "SigLIP tokens");
        fit_on_canvas(geometry, canvas);
    }
    if (!options.unpad) {
        cap_single_tiles(geometry, options);
        return;
    }
    if (options.tiled)
        unpad_tiles(geometry, options.tokens_per_side);
    cap_stitched_tiles(geometry, options);
}

double round_to_factor(double side) {
    return std::nearbyint(side / EAGLE_FACTOR) * EAGLE_FACTOR;
} // half to even
double floor_to_factor(double side) {
    return std::floor(side / EAGLE_FACTOR) * EAGLE_FACTOR;
}
double ceil_to_factor(double side) {
    return std::ceil(side / EAGLE_FACTOR) * EAGLE_FACTOR;
}

// Qwen2-VL's smart_resize: whole tokens, the aspect ratio nearly kept, between min_pixels and max_pixels.
Size smart_resize(Size picture, uint64_t min_pixels, uint64_t max_pixels) {
    const double factor = EAGLE_FACTOR;
    double width = std::max(factor, round_to_factor(picture.width));
    double height = std::max(factor, round_to_factor(picture.height));
    const auto pixels = static_cast<double>(area(picture));
    if (width * height > static_cast<double>(max_pixels)) {
        const double shrink = std::sqrt(pixels / static_cast<double>(max_pixels));
        width = floor_to_factor(picture.width / shrink);
        height = floor_to_factor(picture.height / shrink);
        // DIFFERS: a thin picture under a small cap has no token left in the reference, which then fails. Here its
        // short side is one token and its long side what the cap allows.
        if (width == 0 || height == 0) {
            const double longest = floor_to_factor(static_cast<double>(max_pixels) / factor);
            width = width == 0 ? factor : std::min(width, longest);
            height = height == 0 ? factor : std::min(height, longest);
        }
    } else if (width * height < static_cast<double>(min_pixels)) {
        const double grow = std::sqrt(static_cast<double>(min_pixels) / pixels);
        width = ceil_to_factor(picture.width * grow);
        height = ceil_to_factor(picture.height * grow);
    }
    return {to_count(static_cast<uint64_t>(width), "pixels in an Eagle row"),
            to_count(static_cast<uint64_t>(height), "pixels in an Eagle column")};
}

void plan_eagle(v2e_geometry &geometry, const GeometryOptions &options) {
    const auto [shorter, longer] = std::minmax(geometry.width, geometry.height);
    if (static_cast<double>(longer) / shorter > LARGEST_EAGLE_RATIO) {
        fail(V2E_ERROR_INPUT,
             "A picture of %u x %u pixels is too thin: its sides may differ at most by a factor of %.0f.",
             geometry.width, geometry.height, LARGEST_EAGLE_RATIO);
    }
    // DIFFERS: the reference checks the ratio again after the first resize, whose rounding to whole tokens can lift it
    // above 200 (8200 x 41 pixels), and refuses a picture that it had accepted.
    const Size fetch = smart_resize({geometry.width, geometry.height}, FETCH_MIN_PIXELS, FETCH_MAX_PIXELS);
    const Size eagle = smart_resize(fetch, options.eagle_min_pixels, options.eagle_max_pixels);
    geometry.fetch_width = fetch.width;
    geometry.fetch_height = fetch.height;
    geometry.eagle_width = eagle.width;
    geometry.eagle_height = eagle.height;
    const uint64_t patches = static_cast<uint64_t>(eagle.width / EAGLE_PATCH_SIZE) * (eagle.height / EAGLE_PATCH_SIZE);
    geometry.eagle_patches = to_count(patches, "Eagle patches");
    geometry.eagle_tokens = geometry.eagle_patches / (EAGLE_BLOCK_SIZE * EAGLE_BLOCK_SIZE);
}

} // namespace

GeometryOptions complete_options(const v2e_geometry_options *given) {
    const auto raw = read_options(given);
    GeometryOptions options{};
    options.tile_size = raw.tile_size != 0 ? raw.tile_size : RELEASED_TILE_SIZE;
    options.tokens_per_side = raw.tokens_per_side != 0 ? raw.tokens_per_side : RELEASED_TOKENS_PER_SIDE;
    options.tiled = raw.no_tiles == 0;
    options.unpad = raw.no_unpad == 0;
    options.max_vision_token = raw.max_vision_token != 0 ? raw.max_vision_token : RELEASED_MAX_VISION_TOKEN;
    options.eagle = raw.no_eagle == 0;
    options.eagle_min_pixels = raw.eagle_min_pixels != 0 ? raw.eagle_min_pixels : FETCH_MIN_PIXELS;
    options.eagle_max_pixels = raw.eagle_max_pixels != 0 ? raw.eagle_max_pixels : FETCH_MAX_PIXELS;
    if (options.tile_size > LARGEST_SIDE / RELEASED_CANVAS_TILES || options.tokens_per_side > options.tile_size) {
        fail(V2E_ERROR_INPUT, "A tile of %u x %u pixels cannot have %u x %u tokens.", options.tile_size,
             options.tile_size, options.tokens_per_side, options.tokens_per_side);
    }
    constexpr uint64_t TOKEN_PIXELS = EAGLE_FACTOR * EAGLE_FACTOR;
    if (options.eagle_max_pixels < TOKEN_PIXELS || options.eagle_min_pixels > options.eagle_max_pixels) {
        fail(V2E_ERROR_INPUT,
             "Eagle's limits of %llu to %llu pixels are not a range that holds one token of %llu pixels.",
             static_cast<unsigned long long>(options.eagle_min_pixels),
             static_cast<unsigned long long>(options.eagle_max_pixels), static_cast<unsigned long long>(TOKEN_PIXELS));
    }
    options.canvases = read_canvases(raw, options.tile_size);
    return options;
}

v2e_geometry plan_picture(Size picture, const GeometryOptions &options) {
    if (picture.width == 0 || picture.height == 0 || picture.width > LARGEST_SIDE || picture.height > LARGEST_SIDE) {
        fail(V2E_ERROR_INPUT, "A picture of %u x %u pixels cannot be used; each side must be 1 to %u pixels.",
             picture.width, picture.height, LARGEST_SIDE);
    }
    v2e_geometry geometry{};
    geometry.struct_size = sizeof geometry;
    geometry.width = picture.width;
    geometry.height = picture.height;
    plan_tiles(geometry, options);
    if (options.eagle)
        plan_eagle(geometry, options);
    return geometry;
}

v2e_geometry confirm_geometry(const v2e_geometry *given, const GeometryOptions &options) {
    static_assert(std::has_unique_object_representations_v<v2e_geometry>, "compared as bytes");
    const auto geometry = read_options(given);
    const v2e_geometry planned = plan_picture({geometry.width, geometry.height}, options);
    const size_t first = offsetof(v2e_geometry, width);
    const size_t end = std::min<size_t>(given->struct_size, sizeof planned);
    if (end > first && std::memcmp(reinterpret_cast<const char *>(given) + first,
                                   reinterpret_cast<const char *>(&planned) + first, end - first) != 0) {
        fail(V2E_ERROR_INPUT,
             "The geometry is not the one that v2e_plan_picture gives for %u x %u pixels and these options.",
             geometry.width, geometry.height);
    }
    return planned;
}

} // namespace v2e
