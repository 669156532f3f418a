// The functions of valley2.h about models and plans.
#include "api/arguments.hpp"
#include "api/cancel.hpp"
#include "api/handles.hpp"
#include "bundle/manifest.hpp"
#include "conversation/memory_limit.hpp"
#include "cuda/cuda_device_kind.hpp"
#include "valley2.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace v2e;

namespace {

LoadProgress progress_of(const v2e_model_options &given) {
    const std::shared_ptr<const CancelFlag> cancel = flag_of(given.cancel);
    const auto begin = std::chrono::steady_clock::now();
    return [=](v2e_event_kind kind, uint64_t done, uint64_t total) {
        if (cancel != nullptr && cancel->is_set())
            return false;
        if (given.callback == nullptr)
            return true;
        v2e_event event{};
        event.struct_size = sizeof event;
        event.kind = kind;
        event.done = done;
        event.total = total;
        event.elapsed_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
        return given.callback(&event, given.user_data) == 0;
    };
}

v2e_model_options defaults() {
    v2e_model_options options{};
    options.struct_size = sizeof options;
    return options;
}

PlanRequest read_request(const std::string &directory, const v2e_plan_request &given) {
    const Manifest manifest(directory);
    PlanRequest request;
    request.directory = directory;
    request.model = given.model == nullptr ? defaults() : read_options(given.model);
    if (request.model.memory != 0)
        request.model.keep_vision = 1; // unless that is given up
    request.session = ConversationOptions::read(given.session);
    request.architecture = PictureArchitecture::read(manifest.architecture());
    request.process_bytes = given.process_bytes;
    return request;
}

std::vector<Size> read_sizes(const v2e_plan_request &given) {
    constexpr size_t MOST_PICTURES = size_t{1} << 16;
    if (given.picture_count > MOST_PICTURES)
        fail(V2E_ERROR_INPUT, "picture_count is %zu; it may be %zu at most.", given.picture_count, MOST_PICTURES);
    if (given.picture_count > 0)
        require(given.pictures, "request.pictures");
    std::vector<Size> sizes;
    for (size_t i = 0; i < given.picture_count; ++i)
        sizes.push_back({given.pictures[i].width, given.pictures[i].height});
    return sizes;
}

} // namespace

v2e_status v2e_model_open(const char *bundle_directory, const v2e_model_options *options, v2e_model **model) {
    return guard([&] {
        require(bundle_directory, "bundle_directory");
        require(model, "model");
        *model = nullptr;
        const v2e_model_options given = options == nullptr ? defaults() : read_options(options);
        *model = new v2e_model{Model::open(bundle_directory, given, cuda::device_kind(), progress_of(given))};
    });
}

v2e_status v2e_model_describe(const v2e_model *model, v2e_model_description *description) {
    return guard([&] {
        require(model, "model");
        write_struct(model->model->describe(), description, "description");
    });
}

void v2e_model_trim(const v2e_model *model) {
    if (model != nullptr)
        guard([&] { model->model->trim(); });
}

void v2e_model_close(v2e_model *model) {
    delete model;
}

v2e_status v2e_model_plan(const char *bundle_directory, const v2e_plan_request *request, v2e_memory_plan *plan,
                          v2e_memory_choice *choice) {
    return guard([&] {
        require(bundle_directory, "bundle_directory");
        const v2e_plan_request given = read_options(request);
        const PlanRequest wanted = read_request(bundle_directory, given);
        const MemoryChoice chosen =
            choose_for(wanted, read_sizes(given), given.video != 0, wanted.model.memory, cuda::device_kind());
        write_struct(chosen.plan, plan, "plan");
        if (choice != nullptr)
            write_struct(chosen.options, choice, "choice");
    });
}
