#include "plan/picture_plan.hpp"

#include "base/error.hpp"
#include "base/saturating.hpp"

namespace v2e {
namespace {

constexpr uint64_t TOKEN_PIXELS = EAGLE_FACTOR * EAGLE_FACTOR; // of the Eagle picture

// Visits the plan of each picture; those that follow one of their own size, as frames do, share its.
template <class Visit>
void visit_plans(const v2e_geometry *pictures, size_t count, const GeometryOptions &options, Visit &&visit) {
    if (count > 0 && pictures == nullptr)
        fail(V2E_ERROR_INPUT, "picture_count is %zu but pictures is NULL.", count);
    v2e_geometry plan{};
    for (size_t i = 0; i < count; ++i) {
        if (pictures[i].struct_size < sizeof(v2e_geometry))
            fail(V2E_ERROR_INPUT, "The struct_size of picture %zu is not that of this library.", i);
        const Size size{pictures[i].width, pictures[i].height};
        if (i == 0 || !(size == Size{plan.width, plan.height}))
            plan = plan_picture(size, options);
        visit(plan);
    }
}

} // namespace

std::vector<v2e_geometry> plan_pictures(const v2e_geometry *pictures, size_t count, const GeometryOptions &options) {
    std::vector<v2e_geometry> plans;
    plans.reserve(count);
    visit_plans(pictures, count, options, [&](const v2e_geometry &plan) { plans.push_back(plan); });
    return plans;
}

uint64_t picture_tokens(const v2e_geometry *pictures, size_t count, const GeometryOptions &options) {
    Saturating tokens;
    visit_plans(pictures, count, options,
                [&](const v2e_geometry &plan) { tokens += Saturating(plan.siglip_tokens) + plan.eagle_tokens; });
    return tokens.value();
}

uint64_t eagle_cap(const GeometryOptions &options) {
    return options.eagle_max_pixels / TOKEN_PIXELS;
}

uint64_t eagle_floor(const GeometryOptions &options) {
    return options.eagle_min_pixels / TOKEN_PIXELS + (options.eagle_min_pixels % TOKEN_PIXELS != 0 ? 1 : 0);
}

uint64_t eagle_pixels(uint64_t tokens) {
    return (Saturating(tokens) * TOKEN_PIXELS).value();
}

} // namespace v2e
