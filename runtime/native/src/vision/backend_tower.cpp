#include "vision/backend_tower.hpp"

#include "base/error.hpp"
#include "bundle/manifest.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace v2e {
namespace {

constexpr size_t CHANNELS = 3;
constexpr uint64_t MOST_FLOATS = uint64_t{1} << 40; // below it no product with a count wraps

size_t in_range(Saturating floats) {
    if (floats > Saturating(MOST_FLOATS))
        fail(V2E_ERROR_BUNDLE, "The manifest's sizes are out of range.");
    return static_cast<size_t>(floats.value());
}

v2e_component vision_component(uint32_t component) {
    if (component < V2E_COMPONENT_SIGLIP || component > V2E_COMPONENT_EAGLE)
        fail(V2E_ERROR_INPUT, "component is %u, which is no vision component.", static_cast<unsigned>(component));
    return static_cast<v2e_component>(component);
}

} // namespace

ComponentSizes::ComponentSizes(const std::string &bundle_directory, v2e_component component) {
    const Json architecture = Manifest(bundle_directory).architecture();
    const Json siglip = architecture.at("siglip"), projector = architecture.at("projector");
    const Saturating image = size_of(siglip, "image_size"), side = image / size_of(siglip, "patch_size");
    const Saturating features = side * side * size_of(siglip, "hidden_size");
    if (component == V2E_COMPONENT_SIGLIP) {
        input = in_range(CHANNELS * image * image);
        output = in_range(features);
    } else if (component == V2E_COMPONENT_PROJECTOR) {
        const Saturating tokens = size_of(projector, "tokens_per_side");
        input = in_range(features);
        output = in_range(tokens * tokens * size_of(projector, "output_size"));
    } else {
        const Json eagle = architecture.at("eagle");
        if (eagle.kind() != Json::Kind::object)
            fail(V2E_ERROR_BUNDLE, "%s has no Eagle branch.", bundle_directory.c_str());
        const Saturating patch = size_of(eagle, "patch_size"), merge = size_of(eagle, "spatial_merge_size");
        input = in_range(CHANNELS * patch * patch);
        output = in_range(size_of(eagle, "hidden_size"));
        in_an_output = in_range(merge * merge);
    }
}

BackendTower::BackendTower(const std::string &bundle_directory, const v2e_backend *backend, uint32_t component)
    : backend_(backend, "backend"), component_(vision_component(component)), sizes_(bundle_directory, component_),
      engine_(backend_.backend(), component_) {}

void BackendTower::prepare(size_t count, const std::function<bool(uint64_t done, uint64_t total)> &progress) {
    struct Context {
        const std::function<bool(uint64_t done, uint64_t total)> &progress;
        bool ended = false;
    } context{progress};
    const v2e_backend_progress tell = [](void *given, uint64_t done, uint64_t total) {
        auto &told = *static_cast<Context *>(given);
        told.ended = told.ended || !told.progress(done, total);
        return told.ended ? 1 : 0;
    };
    try {
        engine_.prepare(count, tell, &context);
    } catch (const Failure &) {
        if (!context.ended)
            throw;
    }
    if (context.ended) // whatever the backend says of it
        fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
}

void BackendTower::run(const TowerCall &call) {
    if (component_ == V2E_COMPONENT_EAGLE)
        check_patches(call, sizes_.in_an_output);
    v2e_backend_run run{};
    run.struct_size = sizeof run;
    run.values = call.input;
    run.count = call.count;
    run.row_floats = sizes_.input;
    run.positions = component_ == V2E_COMPONENT_EAGLE ? call.positions : nullptr;
    run.output = call.output;
    run.output_floats = static_cast<size_t>(output_floats(call.count).value());
    report(call, 0, 1);
    try {
        run_once(run);
    } catch (const Failure &failure) {
        require_going(&stop_);
        if (failure.status != V2E_ERROR_CANCELLED || !std::exchange(stale_, false))
            throw;
        run_once(run);
    }
    require_going(&stop_);
    check_output(run);
    report(call, 1, 1);
}

void BackendTower::run_once(const v2e_backend_run &run) {
    {
        const std::lock_guard<std::recursive_mutex> lock(running_);
        runs_ = true;
        told_ = false;
    }
    // One that cancels from now on tells the backend; whoever did before has set the flag.
    try {
        if (!stop_.stops())
            engine_.run(run);
    } catch (const Failure &failure) {
        end_run(failure.status == V2E_ERROR_CANCELLED);
        throw;
    }
    end_run(false);
}

void BackendTower::end_run(bool cancelled) {
    const std::lock_guard<std::recursive_mutex> lock(running_);
    runs_ = false;
    stale_ = stale_ || (told_ && !cancelled);
}

void BackendTower::cancel() {
    stop_.set();
    const std::lock_guard<std::recursive_mutex> lock(running_);
    if (!runs_)
        return;
    told_ = true;
    engine_.cancel();
}

void BackendTower::check_output(const v2e_backend_run &run) const {
    if (!std::all_of(run.output, run.output + run.output_floats, [](float value) { return std::isfinite(value); }))
        fail(V2E_ERROR_NUMERIC, "The %s engine of %s computed a NaN or an infinity.", component_name(component_),
             backend_.name().c_str());
}

v2e_tower_description BackendTower::describe() const {
    v2e_tower_description description{};
    description.component = component_;
    description.input_floats = sizes_.input;
    return description;
}

Saturating BackendTower::scratch_bytes(Saturating count) const {
    return backend_.cost(component_, count.value(), 0).work_bytes;
}

} // namespace v2e
