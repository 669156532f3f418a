#include "vision/open_tower.hpp"

#include "base/utf8.hpp"
#include "vision/conv_projector.hpp"
#include "vision/eagle.hpp"
#include "vision/ovis_projector.hpp"
#include "vision/shuffle_projector.hpp"
#include "vision/siglip.hpp"

namespace v2e {
namespace {

std::unique_ptr<NativeTower> open_projector(TowerFile file, const TowerOptions &options) {
    const std::string type = file.text("type");
    if (type == "ovis_conv_adapter")
        return std::make_unique<OvisProjector>(std::move(file), options);
    if (type == "conv_adapter")
        return std::make_unique<ConvProjector>(std::move(file), options);
    if (type == "mlp_pixel_shuffle")
        return std::make_unique<ShuffleProjector>(std::move(file), options);
    file.refuse("it is a projector of the type '" + shown(type) + "', which is unknown to this release");
}

} // namespace

std::unique_ptr<NativeTower> open_tower(const std::string &utf8_path, const TowerOptions &options) {
    TowerFile file(utf8_path, options.stamp);
    if (file.tower() == "siglip")
        return std::make_unique<Siglip>(std::move(file), options);
    if (file.tower() == "projector")
        return open_projector(std::move(file), options);
    if (file.tower() == "eagle")
        return std::make_unique<Eagle>(std::move(file), options);
    file.refuse("it holds the tower '" + shown(file.tower()) + "', which is unknown to this release");
}

} // namespace v2e
