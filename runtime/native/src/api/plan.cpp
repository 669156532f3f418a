// The functions of valley2_parts.h about memory and the room that a question needs.
#include "api/arguments.hpp"
#include "cuda/cuda_device_kind.hpp"
#include "plan/context_room.hpp"
#include "plan/gpu_share.hpp"
#include "plan/memory_choice.hpp"
#include "plan/memory_plan.hpp"
#include "valley2_parts.h"

namespace v2e {
namespace {

template <class Result, class Options>
void write_results(const Result &result, Options *options, const char *name, v2e_memory_plan *plan) {
    write_struct(result.options, options, name);
    if (plan != nullptr)
        write_struct(result.plan, plan, "plan");
}

} // namespace
} // namespace v2e

v2e_status v2e_plan_memory(const char *bundle_directory, const v2e_memory_options *options, v2e_memory_plan *plan) {
    return v2e::guard([&] {
        v2e::require(bundle_directory, "bundle_directory");
        v2e::write_struct(v2e::plan_memory(bundle_directory, v2e::read_options(options), v2e::cuda::device_kind()),
                          plan, "plan");
    });
}

v2e_status v2e_choose_memory(const char *bundle_directory, uint64_t limit_bytes, const v2e_memory_options *options,
                             v2e_memory_choice *choice, v2e_memory_plan *plan) {
    return v2e::guard([&] {
        v2e::require(bundle_directory, "bundle_directory");
        v2e::write_results(
            v2e::choose_memory(bundle_directory, limit_bytes, v2e::read_options(options), v2e::cuda::device_kind()),
            choice, "choice", plan);
    });
}

v2e_status v2e_share_gpu(const char *bundle_directory, const v2e_memory_options *options, v2e_gpu_share *share,
                         v2e_memory_plan *plan) {
    return v2e::guard([&] {
        v2e::require(bundle_directory, "bundle_directory");
        v2e::write_results(v2e::share_gpu(bundle_directory, v2e::read_options(options), v2e::cuda::device_kind()),
                           share, "share", plan);
    });
}

v2e_status v2e_check_memory(const char *bundle_directory, uint64_t limit_bytes, const v2e_memory_options *options) {
    return v2e::guard([&] {
        v2e::require(bundle_directory, "bundle_directory");
        v2e::check_memory(bundle_directory, limit_bytes, v2e::read_options(options), v2e::cuda::device_kind());
    });
}

v2e_status v2e_check_context(const v2e_context_question *question) {
    return v2e::guard([&] { v2e::check_context(v2e::read_options(question)); });
}
