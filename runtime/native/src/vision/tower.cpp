#include "vision/tower.hpp"

#include "base/error.hpp"
#include "cpu/isa.hpp"

namespace v2e {
namespace {

constexpr int64_t MOST_POSITION = 1 << 20;         // exact in a float
constexpr size_t MOST_COUNT = 1 << 20;             // tiles or patches of a run
constexpr uint64_t MOST_BYTES = uint64_t{1} << 45; // memory of a run: below it no size that is part of it wraps

v2e_component component_of(const std::string &name) {
    for (const v2e_component component : {V2E_COMPONENT_SIGLIP, V2E_COMPONENT_PROJECTOR})
        if (name == component_name(component))
            return component;
    return V2E_COMPONENT_EAGLE;
}

} // namespace

const char *component_name(v2e_component component) {
    switch (component) {
    case V2E_COMPONENT_SIGLIP:
        return "siglip";
    case V2E_COMPONENT_PROJECTOR:
        return "projector";
    case V2E_COMPONENT_EAGLE:
        return "eagle";
    case V2E_COMPONENT_DECODER:
        break;
    }
    return "decoder";
}

TowerOptions::TowerOptions(const v2e_tower_options &options, std::shared_ptr<ThreadPool> threads)
    : v2e_tower_options(options), pool(std::move(threads)) {
    if (pool == nullptr)
        pool = std::make_shared<ThreadPool>(chosen_threads(options.threads));
}

v2e_isa TowerEngine::chosen_isa_of(const v2e_tower_options &options) {
    return chosen_isa(options.isa);
}

void StageCheck::refuse(const std::string &stage) const {
    fail(V2E_ERROR_NUMERIC, "The %s tower computed a NaN or an infinity in %s.", tower_.c_str(), stage.c_str());
}

void Tower::report(const TowerCall &call, size_t done, size_t total) const {
    require_going(&stop_);
    if (call.report && !call.report(done, total))
        fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
}

v2e_tower_description NativeTower::describe() const {
    v2e_tower_description description{};
    description.component = component_of(file_.tower());
    description.threads = engine_.threads();
    description.isa = engine_.isa();
    description.bf16_arithmetic = engine_.kernels().multiplies_bf16 ? 1 : 0;
    description.input_floats = input_floats();
    description.mapped_bytes = file_.mapped_bytes();
    return description;
}

void check_patches(const TowerCall &call, size_t patches_of_a_token) {
    if (call.positions == nullptr)
        fail(V2E_ERROR_INPUT, "The eagle tower needs the positions of its patches.");
    if (call.count % patches_of_a_token != 0)
        fail(V2E_ERROR_INPUT, "The eagle tower takes multiples of %zu patches, not %zu.", patches_of_a_token,
             call.count);
    for (size_t i = 0; i < 2 * call.count; ++i)
        if (call.positions[i] < 0 || call.positions[i] > MOST_POSITION)
            fail(V2E_ERROR_INPUT, "A patch lies at position %lld.", static_cast<long long>(call.positions[i]));
}

v2e_tower_cost cost_of(const Tower &tower, size_t count) {
    if (count == 0 || count > MOST_COUNT)
        fail(V2E_ERROR_INPUT, "A vision tower takes from 1 to %zu tiles or patches at once, not %zu.", MOST_COUNT,
             count);
    v2e_tower_cost cost{};
    cost.output_floats = tower.output_floats(count).value();
    cost.scratch_bytes = tower.scratch_bytes(count).value();
    cost.operations = tower.operations(count);
    const Saturating values = Saturating(cost.output_floats) + Saturating(tower.input_floats()) * count;
    if (values * sizeof(float) + cost.scratch_bytes > Saturating(MOST_BYTES))
        fail(V2E_ERROR_BUDGET, "%zu tiles or patches at once take more memory than any machine has.", count);
    return cost;
}

void run_tower(Tower &tower, const TowerCall &call) {
    tower.stop().begin_call();
    try {
        tower.run(call);
    } catch (const Failure &) {
        tower.require_intact();
        throw;
    }
    tower.require_intact();
}

} // namespace v2e
