#include "vision/tower.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

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

} // namespace v2e
