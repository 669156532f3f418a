// The functions of valley2_parts.h about the vision towers.
#include "api/arguments.hpp"
#include "api/decoder_threads.hpp"
#include "valley2_parts.h"
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
        run_tower(*tower->tower, {given.values, given.positions, given.count, output, Reporter(callback, user_data)});
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

// Not in a header: for tests, as of sessions.
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
