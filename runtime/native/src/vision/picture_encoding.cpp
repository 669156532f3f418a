#include "vision/picture_encoding.hpp"

#include "base/error.hpp"
#include "picture/pixels.hpp"
#include "picture/stitch.hpp"
#include "vision/vocabulary.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace v2e {
namespace {

constexpr size_t CHANNELS = 3;
constexpr size_t PATCH_FLOATS = CHANNELS * EAGLE_PATCH_SIZE * EAGLE_PATCH_SIZE;

// Adds the time from its beginning to its end to a part of the call.
class Timed {
  public:
    explicit Timed(double &seconds) : seconds_(seconds) {}
    ~Timed() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }
    Timed(const Timed &) = delete;
    Timed &operator=(const Timed &) = delete;

  private:
    using Clock = std::chrono::steady_clock;

    double &seconds_;
    Clock::time_point begin_ = Clock::now();
};

PixelMeter meter_of(const VisionCall &call) {
    return PixelMeter([&call] { return !stops(&call.stop.flag()); });
}

} // namespace

void PictureEncoding::load_siglip() {
    uint64_t tiles = 0;
    for (const size_t place : wanted_)
        tiles += pictures_[place].geometry.tile_count;
    call_.report(VisionStage::siglip, 0, tiles);
    const Timed timed(result_.times.load);
    const v2e_tower_cost siglip = cost_of(towers_.open(V2E_COMPONENT_SIGLIP, 1, call_), 1);
    const Tower &projector = towers_.open(V2E_COMPONENT_PROJECTOR, 1, call_);
    const v2e_tower_cost projected = cost_of(projector, 1);
    tile_floats_ = towers_.find(V2E_COMPONENT_SIGLIP)->input_floats();
    feature_floats_ = siglip.output_floats;
    if (projector.input_floats() != feature_floats_)
        fail(V2E_ERROR_BUNDLE, "SigLIP gives %zu features of a tile, but the projector takes %zu.", feature_floats_,
             projector.input_floats());
    const GeometryOptions &first = *picture(0).options;
    tile_tokens_ = size_t{first.tokens_per_side} * first.tokens_per_side;
    for (const size_t place : wanted_) {
        const GeometryOptions &options = *pictures_[place].options;
        if (CHANNELS * options.tile_size * options.tile_size != tile_floats_ ||
            options.tokens_per_side != first.tokens_per_side || projected.output_floats % tile_tokens_ != 0)
            fail(V2E_ERROR_INPUT,
                 "A picture was planned for tiles of %u x %u pixels that become %u x %u tokens, which is not what the "
                 "towers of this bundle make.",
                 options.tile_size, options.tile_size, options.tokens_per_side, options.tokens_per_side);
    }
    hidden_size_ = projected.output_floats / tile_tokens_;
}

void PictureEncoding::encode_tiles() {
    uint64_t done = 0, total = 0;
    for (const size_t place : wanted_)
        total += pictures_[place].geometry.tile_count;
    std::vector<float> features(feature_floats_); // (patches, channels)
    for (const size_t place : wanted_) {
        const VisionPicture &given = pictures_[place];
        const v2e_geometry &geometry = given.geometry;
        call_.stop.require_going();
        std::vector<float> tiles(geometry.tile_count * tile_floats_); // (tile_count, 3, tile_size, tile_size)
        {
            const Timed timed(result_.times.preprocess);
            PixelMeter meter = meter_of(call_);
            make_tiles(given.pixels, geometry, *given.options, tiles.data(), meter);
        }
        const size_t token_floats = tile_tokens_ * hidden_size_;
        std::vector<float> tokens(geometry.tile_count * token_floats); // (tile_count, tile_tokens, hidden_size)
        for (size_t tile = 0; tile < geometry.tile_count; ++tile) {
            encode_tile(tiles.data() + tile * tile_floats_, features.data(), tokens.data() + tile * token_floats);
            call_.report(VisionStage::siglip, ++done, total);
        }
        auto made = std::make_shared<PictureEmbeddings>();
        made->tokens = size_t{geometry.siglip_tokens} + geometry.eagle_tokens;
        made->hidden_size = hidden_size_;
        made->values.resize(made->tokens * hidden_size_);
        stitch_tiles(tokens.data(), geometry, *given.options, hidden_size_, made->values.data());
        embeddings_[place] = std::move(made);
    }
}

void PictureEncoding::encode_tile(const float *tile, float *features, float *tokens) {
    {
        const Timed timed(result_.times.siglip);
        run(V2E_COMPONENT_SIGLIP, {tile, nullptr, 1, features, call_.events.layer}, tile_floats_, feature_floats_);
    }
    {
        const Timed timed(result_.times.projector);
        run(V2E_COMPONENT_PROJECTOR, {features, nullptr, 1, tokens, call_.events.layer}, feature_floats_,
            tile_tokens_ * hidden_size_);
    }
    note_vocabulary();
}

void PictureEncoding::note_vocabulary() {
    if (towers_.in_backend(V2E_COMPONENT_PROJECTOR))
        return;
    if (!result_.vocabulary)
        result_.vocabulary.emplace();
    const VocabularyCounters *counters = towers_.find(V2E_COMPONENT_PROJECTOR)->vocabulary();
    if (counters == nullptr)
        return;
    v2e_tower_vocabulary &use = *result_.vocabulary;
    use.dropped_mass = std::max(use.dropped_mass, counters->largest_dropped());
    use.tokens += counters->rows();
    use.entries += counters->kept();
    use.multiplied += counters->multiplied();
}

bool PictureEncoding::has_eagle() const {
    return std::any_of(wanted_.begin(), wanted_.end(),
                       [this](size_t place) { return pictures_[place].geometry.eagle_patches > 0; });
}

void PictureEncoding::load_eagle() {
    size_t most = 0;
    for (const size_t place : wanted_)
        most = std::max<size_t>(most, pictures_[place].geometry.eagle_patches);
    call_.report(VisionStage::eagle, 0, wanted_.size());
    const Timed timed(result_.times.load);
    towers_.open(V2E_COMPONENT_EAGLE, most, call_);
}

void PictureEncoding::encode_patches() {
    uint64_t done = 0;
    for (const size_t place : wanted_) {
        const v2e_geometry &geometry = pictures_[place].geometry;
        call_.stop.require_going();
        if (geometry.eagle_patches > 0) {
            std::vector<float> patches(geometry.eagle_patches * PATCH_FLOATS);  // (eagle_patches, 588)
            std::vector<int64_t> positions(size_t{geometry.eagle_patches} * 2); // (eagle_patches, 2)
            {
                const Timed timed(result_.times.preprocess);
                PixelMeter meter = meter_of(call_);
                make_patches(pictures_[place].pixels, geometry, patches.data(), positions.data(), meter);
            }
            const Timed timed(result_.times.eagle);
            float *tokens = embeddings_[place]->values.data() + geometry.siglip_tokens * hidden_size_;
            run(V2E_COMPONENT_EAGLE,
                {patches.data(), positions.data(), geometry.eagle_patches, tokens, call_.events.layer}, PATCH_FLOATS,
                geometry.eagle_tokens * hidden_size_);
        }
        call_.report(VisionStage::eagle, ++done, wanted_.size());
    }
}

void PictureEncoding::finish() {
    for (const size_t place : wanted_)
        result_.embeddings[place] = std::move(embeddings_[place]);
}

void PictureEncoding::run(v2e_component component, const TowerCall &call, size_t row_floats, size_t output_floats) {
    towers_.run(component, call, row_floats, output_floats, call_);
}

} // namespace v2e
