// The pictures of one call on their way through the towers.
#pragma once

#include "picture/geometry.hpp"
#include "valley2_parts.h"
#include "vision/embedding_cache.hpp"
#include "vision/tower_set.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace v2e {

// A picture, and how it becomes tiles and patches. The pixels are the caller's, and stay until the call returns.
struct VisionPicture {
    const uint8_t *pixels;                          // (height, width, 3)
    v2e_geometry geometry;                          // what plan_picture gives for its size and the options
    std::shared_ptr<const GeometryOptions> options; // shared by the pictures of a question
};

// Seconds that each part of a call has taken.
struct VisionTimes {
    double load = 0, preprocess = 0, siglip = 0, projector = 0, eagle = 0;
};

struct EncodedPictures {
    std::vector<SharedEmbeddings> embeddings; // of each picture, in their order
    size_t hits = 0;                          // pictures that were not computed for this call
    VisionTimes times;
    std::optional<v2e_tower_vocabulary> vocabulary; // nothing: no projector of the core has run
};

// First all pictures go through SigLIP and the projector, then through Eagle, whose tokens come behind.
class PictureEncoding {
  public:
    // Fills in the embeddings of `result` at the places of `pictures` that `wanted` names, its times and vocabulary.
    PictureEncoding(const std::vector<VisionPicture> &pictures, const std::vector<size_t> &wanted, TowerSet &towers,
                    const VisionCall &call, EncodedPictures &result)
        : pictures_(pictures), wanted_(wanted), towers_(towers), call_(call), result_(result),
          embeddings_(pictures.size()) {}

    // Loads SigLIP and the projector, and checks that they are what the pictures were planned for.
    void load_siglip();
    void encode_tiles();
    // Whether a picture goes through Eagle.
    bool has_eagle() const;
    void load_eagle();
    void encode_patches();
    // Hands the embeddings over.
    void finish();

  private:
    const VisionPicture &picture(size_t number) const { return pictures_[wanted_[number]]; }
    void encode_tile(const float *tile, float *features, float *tokens);
    void note_vocabulary();
    void run(v2e_component component, const TowerCall &call, size_t row_floats, size_t output_floats);

    const std::vector<VisionPicture> &pictures_;
    const std::vector<size_t> &wanted_;
    TowerSet &towers_;
    const VisionCall &call_;
    EncodedPictures &result_;

    size_t tile_floats_ = 0, feature_floats_ = 0; // of one tile
    size_t tile_tokens_ = 0;                      // tokens of one tile
    size_t hidden_size_ = 0;
    std::vector<std::shared_ptr<PictureEmbeddings>> embeddings_; // by the places of `pictures`
};

} // namespace v2e
