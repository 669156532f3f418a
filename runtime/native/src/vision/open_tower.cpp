#include "vision/open_tower.hpp"

#include "base/utf8.hpp"
#include "vision/eagle.hpp"
#include "vision/projector.hpp"
#include "vision/siglip.hpp"

namespace v2e {

std::unique_ptr<NativeTower> open_tower(const std::string &utf8_path, const TowerOptions &options) {
    TowerFile file(utf8_path, options.stamp);
    if (file.tower() == "siglip")
        return std::make_unique<Siglip>(std::move(file), options);
    if (file.tower() == "projector")
        return std::make_unique<Projector>(std::move(file), options);
    if (file.tower() == "eagle")
        return std::make_unique<Eagle>(std::move(file), options);
    file.refuse("it holds the tower '" + shown(file.tower()) + "', which is unknown to this release");
}

} // namespace v2e
