// A vision tower's file from an untrusted source: three bytes of options, a line with the header, and the beginning of
// the weights. What opens can be planned for any count, and computes small ones.
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"

#include <cmath>
#include <vector>

namespace {

v2e_tower_cost plan(const v2e_tower *tower, size_t count, v2e_status &status) {
    v2e_tower_cost cost{};
    cost.struct_size = sizeof cost;
    status = fuzz::seen(v2e_tower_plan(tower, count, &cost));
    return cost;
}

void run(v2e_tower *tower, const v2e_tower_description &description, size_t count) {
    v2e_status status;
    const v2e_tower_cost cost = plan(tower, count, status);
    constexpr uint64_t MOST_BYTES = 1 << 22;
    if (status != V2E_OK || cost.operations > 3e6 || cost.scratch_bytes > MOST_BYTES ||
        4 * cost.output_floats > MOST_BYTES || 4 * count * description.input_floats > MOST_BYTES)
        return;
    std::vector<float> values(count * description.input_floats), output(cost.output_floats);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(i % 7) / 7.0f - 0.5f;
    std::vector<int64_t> positions(2 * count);
    for (size_t i = 0; i < positions.size(); ++i)
        positions[i] = static_cast<int64_t>(i % 5);
    v2e_tower_input input{};
    input.struct_size = sizeof input;
    input.values = values.data();
    input.count = count;
    input.positions = positions.data();
    if (fuzz::seen(v2e_tower_run(tower, &input, output.data(), nullptr, nullptr)) == V2E_OK)
        for (const float value : output)
            MUST(std::isfinite(value));
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const fuzz::ScratchDirectory scratch;
    static const std::string path = scratch.file("tower.safetensors");
    fuzz::Input input(data, size);
    v2e_tower_options options{};
    options.struct_size = sizeof options;
    options.threads = 1;
    options.isa = input.byte() % 6; // one that the machine lacks is refused
    constexpr float masses[] = {0.0f, -1.0f, 0.4f, 0.5f, NAN, -INFINITY};
    options.dropped_mass = input.pick(masses);
    if (options.dropped_mass == -1.0f) {
        options.dropped_mass = 0;
        options.whole_vocabulary = 1;
    }
    const size_t count = input.byte() % 9;
    const std::string_view header = input.line();
    fuzz::write_file(path, fuzz::safetensors(header, input.rest()));
    v2e_tower *tower = nullptr;
    if (fuzz::seen(v2e_tower_open(path.c_str(), &options, &tower)) != V2E_OK) {
        MUST(tower == nullptr);
        return 0;
    }
    v2e_tower_description description{};
    description.struct_size = sizeof description;
    MUST(v2e_tower_describe(tower, &description) == V2E_OK);
    MUST(description.input_floats > 0);
    v2e_status status;
    plan(tower, size_t{1} << 20, status);
    MUST(status == V2E_OK || status == V2E_ERROR_BUDGET);
    plan(tower, SIZE_MAX, status);
    MUST(status == V2E_ERROR_INPUT);
    run(tower, description, count);
    v2e_tower_close(tower);
    return 0;
}
