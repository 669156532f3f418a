// The functions of valley2.h about the vision towers.
#include "api/arguments.hpp"
#include "api/model_threads.hpp"
#include "valley2.h"
#include "vision/backend_tower.hpp"
#include "vision/open_tower.hpp"
#include "vision/vocabulary.hpp"

#include <chrono>
#include <memory>

struct v2e_tower {
    std::unique_ptr<v2e::Tower> tower;
};

using namespace v2e;

namespace {

constexpr size_t MOST_COUNT = 1 << 20;             // tiles or patches of a run
constexpr uint64_t MOST_BYTES = uint64_t{1} << 45; // memory of a run: below it no size that is part of it wraps

// What a run of so many tiles or patches takes.
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

std::unique_ptr<Tower> open(const char *path, const v2e_tower_options &options) {
    if (options.backend != nullptr)
        return std::make_unique<BackendTower>(path, options.backend, options.component);
    return open_tower(path, TowerOptions(options, threads_of(options.threads_of)));
}

// What a run tells its caller.
class Reporter {
  public:
    Reporter(v2e_event_callback callback, void *user_data) : callback_(callback), user_data_(user_data) {}

    bool operator()(size_t done, size_t total) const {
        if (callback_ == nullptr)
            return true;
        v2e_event event{};
        event.struct_size = sizeof event;
        event.kind = V2E_EVENT_LAYER;
        event.done = done;
        event.total = total;
        event.elapsed_ms = std::chrono::duration<double, std::milli>(Clock::now() - begin_).count();
        return callback_(&event, user_data_) == 0;
    }

  private:
    using Clock = std::chrono::steady_clock;

    v2e_event_callback callback_;
    void *user_data_;
    Clock::time_point begin_ = Clock::now();
};

} // namespace

v2e_status v2e_tower_open(const char *path, const v2e_tower_options *options, v2e_tower **tower) {
    return guard([&] {
        require(path, "path");
        require(tower, "tower");
        *tower = nullptr;
        *tower = new v2e_tower{open(path, read_options(options))};
    });
}

v2e_status v2e_tower_describe(const v2e_tower *tower, v2e_tower_description *description) {
    return guard([&] {
        require(tower, "tower");
        write_struct(tower->tower->describe(), description, "description");
    });
}

v2e_status v2e_tower_plan(const v2e_tower *tower, size_t count, v2e_tower_cost *cost) {
    return guard([&] {
        require(tower, "tower");
        write_struct(cost_of(*tower->tower, count), cost, "cost");
    });
}

v2e_status v2e_tower_run(v2e_tower *tower, const v2e_tower_input *input, float *output, v2e_event_callback callback,
                         void *user_data) {
    return guard([&] {
        require(tower, "tower");
        const v2e_tower_input given = read_options(input);
        require(given.values, "input.values");
        if (!is_aligned(given.positions))
            fail(V2E_ERROR_INPUT, "The argument input.positions is not aligned to the 8 bytes of its values.");
        require(output, "output");
        cost_of(*tower->tower, given.count);
        Tower &opened = *tower->tower;
        opened.stop().begin_call();
        try {
            opened.run({given.values, given.positions, given.count, output, Reporter(callback, user_data)});
        } catch (const Failure &) {
            opened.require_intact();
            throw;
        }
        opened.require_intact();
    });
}

v2e_status v2e_tower_vocabulary_of(const v2e_tower *tower, v2e_tower_vocabulary *vocabulary) {
    return guard([&] {
        require(tower, "tower");
        v2e_tower_vocabulary result{};
        if (const VocabularyCounters *counters = tower->tower->vocabulary()) {
            result.dropped_mass = counters->largest_dropped();
            result.tokens = counters->rows();
            result.entries = counters->kept();
            result.multiplied = counters->multiplied();
        }
        write_struct(result, vocabulary, "vocabulary");
    });
}

void v2e_tower_cancel(v2e_tower *tower) {
    if (tower != nullptr)
        tower->tower->cancel();
}

// Not in valley2.h: for tests, as of sessions.
extern "C" {
V2E_API void v2e_private_tower_cancel_at(v2e_tower *tower, uint64_t look);
V2E_API uint64_t v2e_private_tower_looks(v2e_tower *tower);
}

void v2e_private_tower_cancel_at(v2e_tower *tower, uint64_t look) {
    tower->tower->stop().set_at_look(look);
}

uint64_t v2e_private_tower_looks(v2e_tower *tower) {
    return tower->tower->stop().looks();
}

void v2e_tower_resume(v2e_tower *tower) {
    if (tower != nullptr)
        tower->tower->stop().clear();
}

void v2e_tower_close(v2e_tower *tower) {
    delete tower;
}
