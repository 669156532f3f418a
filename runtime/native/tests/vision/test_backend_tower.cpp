// A vision component in a backend: what the core checks, what it asks of the backend, and that every cancel is heard.
#include "tests/check.hpp"
#include "valley2_parts.h"

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

// Sizes of the components: 27 and 8 numbers in and out, 8 and 20, 12 and 5 for 4 patches.
constexpr const char *MANIFEST = R"({"format": "valley2-bundle", "format_version": 2, "architecture": {
    "siglip": {"image_size": 3, "patch_size": 2, "hidden_size": 8},
    "projector": {"tokens_per_side": 2, "output_size": 5},
    "eagle": {"patch_size": 2, "spatial_merge_size": 2, "hidden_size": 5}}})";

class Directory {
  public:
    Directory() {
        static std::atomic<unsigned> counter{0};
        path_ = std::filesystem::temp_directory_path() /
                ("valley2_backend_" + std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()) +
                 std::to_string(counter.fetch_add(1)));
        std::filesystem::create_directory(path_);
        std::ofstream(path_ / "valley2.json") << MANIFEST;
    }
    ~Directory() {
        std::error_code ignored; // a leftover in the temporary directory does not fail a test
        std::filesystem::remove_all(path_, ignored);
    }
    std::string path() const { return path_.string(); }

  private:
    std::filesystem::path path_;
};

// Writes `value` everywhere, or waits until it is cancelled.
struct FakeDevices {
    float value = 1;
    bool waits = false;
    bool obeys_late = false; // a cancel counts for the next run
    v2e_status fails = V2E_OK;
    std::atomic<bool> runs{false}, cancelled{false};
    int opened = 0, closed = 0, told = 0;
    uint32_t component = 0;
    v2e_backend_run seen{};
    v2e_backend table{};

    FakeDevices() {
        table.struct_size = sizeof table;
        table.name = "fake";
        table.user_data = this;
        table.open = [](void *self, uint32_t component, void **engine) {
            auto *fake = static_cast<FakeDevices *>(self);
            ++fake->opened;
            fake->component = component;
            *engine = self;
            return fake->fails == V2E_OK ? V2E_OK : v2e_backend_fail(fake->fails, "no such thing");
        };
        table.cost = [](void *, const v2e_backend_shape *shape, v2e_backend_cost *cost) {
            cost->weight_bytes = 1000;
            cost->work_bytes = 10 * shape->count + shape->component;
            return V2E_OK;
        };
        table.run = [](void *engine, const v2e_backend_run *run) {
            return static_cast<FakeDevices *>(engine)->run(*run);
        };
        table.cancel = [](void *engine) {
            auto *fake = static_cast<FakeDevices *>(engine);
            ++fake->told;
            fake->cancelled.store(true);
        };
        table.close = [](void *engine) { ++static_cast<FakeDevices *>(engine)->closed; };
    }

    v2e_status run(const v2e_backend_run &run) {
        seen = run;
        if (obeys_late && cancelled.exchange(false))
            return V2E_ERROR_CANCELLED;
        runs.store(true);
        while (waits && !cancelled.load())
            std::this_thread::yield();
        if (!obeys_late && cancelled.exchange(false))
            return V2E_ERROR_CANCELLED;
        std::fill_n(run.output, run.output_floats, value);
        return fails;
    }
};

struct OpenedTower {
    OpenedTower(FakeDevices &backend, uint32_t component) {
        v2e_tower_options options{};
        options.struct_size = sizeof options;
        options.backend = &backend.table;
        options.component = component;
        status = v2e_tower_open(directory.path().c_str(), &options, &tower);
    }
    ~OpenedTower() { v2e_tower_close(tower); }

    v2e_status run(size_t count, size_t row, size_t outputs, const int64_t *positions = nullptr) {
        values.assign(count * row, 0.5f);
        output.assign(outputs, 0.0f);
        v2e_tower_input input{};
        input.struct_size = sizeof input;
        input.values = values.data();
        input.count = count;
        input.positions = positions;
        return v2e_tower_run(tower, &input, output.data(), nullptr, nullptr);
    }

    Directory directory;
    v2e_tower *tower = nullptr;
    v2e_status status;
    std::vector<float> values, output;
};

std::string last_sentence() {
    return v2e_last_error();
}

} // namespace

TEST_CASE("a backend's tower has the sizes of the manifest and the costs of the backend") {
    struct Expected {
        uint32_t component;
        size_t count, input, output;
    };
    for (const Expected &one : {Expected{V2E_COMPONENT_SIGLIP, 2, 27, 16}, Expected{V2E_COMPONENT_PROJECTOR, 3, 8, 60},
                                Expected{V2E_COMPONENT_EAGLE, 8, 12, 10}}) {
        FakeDevices backend;
        {
            OpenedTower opened(backend, one.component);
            REQUIRE(opened.status == V2E_OK);
            v2e_tower_description description{};
            description.struct_size = sizeof description;
            CHECK(v2e_tower_describe(opened.tower, &description) == V2E_OK);
            CHECK(description.component == one.component);
            CHECK(description.input_floats == one.input);
            v2e_tower_cost cost{};
            cost.struct_size = sizeof cost;
            CHECK(v2e_tower_plan(opened.tower, one.count, &cost) == V2E_OK);
            CHECK(cost.output_floats == one.output);
            CHECK(cost.scratch_bytes == 10 * one.count + one.component);
            std::vector<int64_t> positions(2 * one.count, 3);
            CHECK(opened.run(one.count, one.input, one.output, positions.data()) == V2E_OK);
            CHECK(opened.output == std::vector<float>(one.output, 1.0f));
            CHECK(backend.component == one.component);
            CHECK(backend.seen.count == one.count);
            CHECK(backend.seen.row_floats == one.input);
            CHECK(backend.seen.output_floats == one.output);
            CHECK((backend.seen.positions != nullptr) == (one.component == V2E_COMPONENT_EAGLE));
        }
        CHECK(backend.opened == 1);
        CHECK(backend.closed == 1);
    }
}

TEST_CASE("a backend is given no patches that make no tokens") {
    FakeDevices backend;
    OpenedTower opened(backend, V2E_COMPONENT_EAGLE);
    std::vector<int64_t> positions(16, 0);
    CHECK(opened.run(4, 12, 5) == V2E_ERROR_INPUT);
    CHECK(last_sentence().find("positions") != std::string::npos);
    CHECK(opened.run(6, 12, 5, positions.data()) == V2E_ERROR_INPUT);
    CHECK(last_sentence().find("multiples of 4") != std::string::npos);
    positions[3] = -1;
    CHECK(opened.run(8, 12, 10, positions.data()) == V2E_ERROR_INPUT);
    CHECK(!backend.runs.load());
}

TEST_CASE("what a backend computes must be finite") {
    for (const float wrong : {std::nanf(""), INFINITY}) {
        FakeDevices backend;
        backend.value = wrong;
        OpenedTower opened(backend, V2E_COMPONENT_PROJECTOR);
        CHECK(opened.run(1, 8, 20) == V2E_ERROR_NUMERIC);
        CHECK(last_sentence() == "The projector engine of fake computed a NaN or an infinity.");
    }
}

TEST_CASE("a failure of a backend is the failure of the call") {
    FakeDevices backend;
    {
        OpenedTower opened(backend, V2E_COMPONENT_SIGLIP);
        backend.fails = V2E_ERROR_BUDGET;
        CHECK(opened.run(1, 27, 8) == V2E_ERROR_BUDGET);
        CHECK(last_sentence() == "The backend fake failed to run with the status 3 and did not say why.");
    }
    const OpenedTower refused(backend, V2E_COMPONENT_SIGLIP);
    CHECK(refused.status == V2E_ERROR_BUDGET);
    CHECK(last_sentence() == "no such thing");
    CHECK(backend.closed == 1);
}

TEST_CASE("a tower of no vision component or of half a backend is refused") {
    FakeDevices backend;
    for (const uint32_t component : {0u, static_cast<unsigned>(V2E_COMPONENT_DECODER), 9u})
        CHECK(OpenedTower(backend, component).status == V2E_ERROR_INPUT);
    backend.table.cost = nullptr;
    CHECK(OpenedTower(backend, V2E_COMPONENT_SIGLIP).status == V2E_ERROR_INPUT);
    CHECK(backend.opened == 0);
}

TEST_CASE("a running backend is told to cancel") {
    FakeDevices backend;
    backend.waits = true;
    OpenedTower opened(backend, V2E_COMPONENT_SIGLIP);
    std::thread other([&] {
        while (!backend.runs.load())
            std::this_thread::yield();
        v2e_tower_cancel(opened.tower);
    });
    CHECK(opened.run(1, 27, 8) == V2E_ERROR_CANCELLED);
    other.join();
    CHECK(backend.told == 1);
    backend.waits = false;
    CHECK(opened.run(1, 27, 8) == V2E_ERROR_CANCELLED); // until it is resumed
    v2e_tower_resume(opened.tower);
    CHECK(opened.run(1, 27, 8) == V2E_OK);
}

TEST_CASE("a backend that does not run is told nothing") {
    FakeDevices backend;
    OpenedTower opened(backend, V2E_COMPONENT_SIGLIP);
    v2e_tower_cancel(opened.tower);
    CHECK(opened.run(1, 27, 8) == V2E_ERROR_CANCELLED);
    CHECK(backend.told == 0);
    CHECK(!backend.runs.load());
}

TEST_CASE("a cancel that came when a run was over does not end a later one") {
    FakeDevices backend;
    backend.obeys_late = true;
    backend.waits = true;
    OpenedTower opened(backend, V2E_COMPONENT_SIGLIP);
    std::thread other([&] {
        while (!backend.runs.load())
            std::this_thread::yield();
        v2e_tower_cancel(opened.tower);
    });
    CHECK(opened.run(1, 27, 8) == V2E_ERROR_CANCELLED);
    other.join();
    v2e_tower_resume(opened.tower);
    backend.waits = false;
    CHECK(backend.cancelled.load());
    CHECK(opened.run(1, 27, 8) == V2E_OK);
}
