#include "vision/tower_set.hpp"

#include "bundle/manifest.hpp"
#include "cpu/isa.hpp"
#include "vision/open_tower.hpp"

#include <utility>

namespace v2e {
namespace {

constexpr std::array<v2e_component, VISION_COMPONENTS> COMPONENTS = {V2E_COMPONENT_SIGLIP, V2E_COMPONENT_PROJECTOR,
                                                                     V2E_COMPONENT_EAGLE};

void tell(const VisionCall &call, const std::string &sentence) {
    if (call.events.notice && !call.events.notice(sentence))
        fail(V2E_ERROR_CANCELLED, "The call was cancelled by its callback.");
}

} // namespace

VisionFiles VisionFiles::of_bundle(const std::string &directory) {
    const Manifest manifest(directory);
    const bool has_eagle = manifest.architecture().at("eagle").kind() == Json::Kind::object;
    VisionFiles files;
    files.directory = directory;
    for (const v2e_component component : COMPONENTS)
        if (component != V2E_COMPONENT_EAGLE || has_eagle)
            files.towers[component - V2E_COMPONENT_SIGLIP] = manifest.tower_path(component_name(component));
    return files;
}

void VisionCall::report(VisionStage stage, uint64_t done, uint64_t total) const {
    if (events.progress && !events.progress(stage, done, total))
        fail(V2E_ERROR_CANCELLED, "The call was cancelled by its callback.");
}

TowerSet::TowerSet(const VisionOptions &options)
    : files_(options.files), pool_(options.pool), backend_runs_(options.backend != nullptr) {
    native_.struct_size = sizeof native_;
    native_.threads = options.threads;
    native_.isa = options.isa;
    chosen_isa(options.isa); // refuses what the machine lacks before the first picture
    if (options.backend != nullptr)
        backend_.emplace(options.backend, "backend");
}

TowerSet::~TowerSet() {
    release();
}

Tower &TowerSet::open(v2e_component component, size_t rows, const VisionCall &call) {
    Place &place = place_of(component);
    for (;;) {
        try {
            if (place.tower == nullptr)
                load(component, call);
            if (place.in_backend != nullptr)
                prepare(place, rows, call);
            return *place.tower;
        } catch (const Failure &failure) {
            if (failure.status != V2E_ERROR_ENGINE || !in_backend(component))
                throw;
            fall_back(component, failure, call);
        }
    }
}

void TowerSet::run(v2e_component component, const TowerCall &run, size_t row_floats, size_t output_floats,
                   const VisionCall &call) {
    const auto compute = [&] {
        Tower &tower = open(component, run.count, call);
        if (tower.input_floats() != row_floats || cost_of(tower, run.count).output_floats != output_floats)
            fail(V2E_ERROR_BUNDLE, "The %s tower of %s does not fit the other towers.", component_name(component),
                 files_.directory.c_str());
        call.stop.run(tower, run);
    };
    try {
        compute();
    } catch (const Failure &failure) {
        if (failure.status != V2E_ERROR_ENGINE || !in_backend(component))
            throw;
        fall_back(component, failure, call);
        compute();
    }
}

bool TowerSet::in_backend(v2e_component component) const {
    return place_of(component).in_backend != nullptr ||
           (place_of(component).tower == nullptr && backend_runs_ && !place_of(component).failed);
}

const Tower *TowerSet::find(v2e_component component) const {
    return place_of(component).tower.get();
}

void TowerSet::release() {
    for (const v2e_component component : COMPONENTS)
        unload(component);
    if (std::exchange(started_, false))
        backend_->stop();
}

bool TowerSet::is_loaded(v2e_component component) const {
    const std::lock_guard<std::mutex> lock(state_);
    return loaded_[component - V2E_COMPONENT_SIGLIP];
}

std::string TowerSet::computed_by(v2e_component component) const {
    const std::lock_guard<std::mutex> lock(state_);
    return computed_by_[component - V2E_COMPONENT_SIGLIP];
}

std::string TowerSet::engine() const {
    const std::lock_guard<std::mutex> lock(state_);
    return backend_runs_ ? backend_->name() : "native";
}

void TowerSet::load(v2e_component component, const VisionCall &call) {
    Place &place = place_of(component);
    start_backend(call);
    if (files_.towers[component - V2E_COMPONENT_SIGLIP].empty())
        fail(V2E_ERROR_BUNDLE, "%s has no %s tower.", files_.directory.c_str(), component_name(component));
    if (!in_backend(component)) {
        open_native(component, place);
        return;
    }
    auto tower = std::make_unique<BackendTower>(files_.directory, &backend_->backend(), component);
    place.in_backend = tower.get();
    place.prepared_rows = 0;
    place.tower = std::move(tower);
    note(component, true, backend_->name());
}

void TowerSet::start_backend(const VisionCall &call) {
    if (!backend_runs_)
        return;
    try {
        started_ = true; // even where it fails, it may have something to give back
        backend_->start();
    } catch (const Failure &failure) {
        if (failure.status != V2E_ERROR_ENGINE)
            throw;
        {
            const std::lock_guard<std::mutex> lock(state_);
            backend_runs_ = false;
        }
        tell(call, "The vision engines run in the core instead of " + backend_->name() + ": " + failure.message + ".");
    }
}

void TowerSet::open_native(v2e_component component, Place &place) {
    const std::string &path = files_.towers[component - V2E_COMPONENT_SIGLIP];
    const std::optional<v2e_file_stamp> &stamp = files_.stamps[component - V2E_COMPONENT_SIGLIP];
    v2e_tower_options options = native_;
    options.stamp = stamp ? &*stamp : nullptr;
    auto tower = open_tower(path, TowerOptions(options, pool_));
    const v2e_tower_description description = tower->describe();
    if (description.component != static_cast<uint32_t>(component))
        fail(V2E_ERROR_BUNDLE, "%s holds the tower %s instead of %s.", path.c_str(),
             component_name(static_cast<v2e_component>(description.component)), component_name(component));
    place.tower = std::move(tower);
    note(component, true, std::string("native ") + v2e_isa_name(description.isa));
}

void TowerSet::prepare(Place &place, size_t rows, const VisionCall &call) {
    if (rows <= place.prepared_rows)
        return;
    call.stop.require_going();
    place.in_backend->prepare(rows, [&call](uint64_t done, uint64_t total) {
        if (total > 0 && call.events.progress && !call.events.progress(VisionStage::build, done, total))
            return false;
        return !stops(&call.stop.flag());
    });
    place.prepared_rows = rows;
}

void TowerSet::fall_back(v2e_component component, const Failure &failure, const VisionCall &call) {
    place_of(component).failed = true;
    unload(component);
    tell(call, std::string("The ") + component_name(component) + " engine runs in the core instead of " + engine() +
                   ": " + failure.message + ".");
}

void TowerSet::note(v2e_component component, bool loaded, const std::string &computed_by) {
    const std::lock_guard<std::mutex> lock(state_);
    loaded_[component - V2E_COMPONENT_SIGLIP] = loaded;
    if (loaded)
        computed_by_[component - V2E_COMPONENT_SIGLIP] = computed_by;
}

void TowerSet::unload(v2e_component component) {
    Place &place = place_of(component);
    place.in_backend = nullptr;
    place.tower.reset();
    note(component, false, {});
}

} // namespace v2e
