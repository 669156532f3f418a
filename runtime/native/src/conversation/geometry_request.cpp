#include "conversation/geometry_request.hpp"

namespace v2e {

GeometryRequest::GeometryRequest(const GeometryOptions &options) {
    for (const Size &canvas : options.canvases) {
        canvases_.push_back(canvas.width);
        canvases_.push_back(canvas.height);
    }
    struct_.struct_size = sizeof struct_;
    struct_.tile_size = options.tile_size;
    struct_.tokens_per_side = options.tokens_per_side;
    struct_.no_tiles = !options.tiled;
    struct_.no_unpad = !options.unpad;
    struct_.max_vision_token = options.max_vision_token;
    struct_.no_eagle = !options.eagle;
    struct_.eagle_min_pixels = options.eagle_min_pixels;
    struct_.eagle_max_pixels = options.eagle_max_pixels;
    struct_.canvases = canvases_.data();
    struct_.canvas_count = options.canvases.size();
}

} // namespace v2e
