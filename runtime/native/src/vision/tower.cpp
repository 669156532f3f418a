#include "vision/tower.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "cpu/isa.hpp"
#include "vision/eagle.hpp"
#include "vision/projector.hpp"
#include "vision/siglip.hpp"

namespace v2e {

v2e_isa TowerEngine::chosen_isa_of(const v2e_tower_options &options) {
    return chosen_isa(options.isa);
}

void StageCheck::refuse(const std::string &stage) const {
    fail(V2E_ERROR_NUMERIC, "The %s tower computed a NaN or an infinity in %s.", tower_.c_str(), stage.c_str());
}

void Tower::report(const TowerCall &call, size_t done, size_t total) const {
    require_going(&engine_.stop());
    if (call.report && !call.report(done, total))
        fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
}

std::unique_ptr<Tower> open_tower(const std::string &utf8_path, const v2e_tower_options &options) {
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
