// Parallel regions on a fixed set of threads.
#pragma once

#include "base/stop_flag.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace v2e {

// What an options struct asks for: 0 is as many as the process may run on. Fails with V2E_ERROR_INPUT above 1024.
unsigned chosen_threads(uint32_t threads);

// The caller of a region takes part in it. Between regions the workers spin for some tens of microseconds, so that the
// next layer finds them awake, and then sleep. Several callers share the workers: each computes its own region, and a
// worker that has done what it could in one looks for another. So no region waits for the end of a longer one.
class ThreadPool {
  public:
    explicit ThreadPool(unsigned threads); // the caller's own included; at least 1
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

    // Calls body(task) for every task in [0, tasks), each once, on any thread, and returns when all are done.
    // Tasks are claimed in rising order. The body must not throw and must not start a region itself.
    template <class Body>
    void run(size_t tasks, Body &&body) {
        using Plain = std::remove_reference_t<Body>;
        run_region(
            tasks, [](void *context, size_t task) { (*static_cast<Plain *>(context))(task); },
            const_cast<void *>(static_cast<const void *>(std::addressof(body))));
    }

    // Calls body(worker, task) for every task in [0, tasks) on at most `most` threads: a worker does one task at a
    // time. Once the flag stops, no task begins any more, and the region fails with V2E_ERROR_CANCELLED.
    template <class Body>
    void run_workers(size_t most, size_t tasks, const StopFlag *stop, Body &&body) {
        std::atomic<size_t> next{0};
        run(std::min({most, tasks, static_cast<size_t>(threads())}), [&](size_t worker) {
            for (size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks && !stops(stop);)
                body(worker, task);
        });
        require_going(stop);
    }

  private:
    using Call = void (*)(void *context, size_t task);

    // What one caller wants done.
    struct Region {
        // gate: OPEN while the region takes helpers, plus the number of workers that are inside. A worker that comes
        // too late finds it closed and goes on, so a region never waits for a worker that did nothing.
        static constexpr uint32_t OPEN = uint32_t{1} << 31;

        std::mutex caller; // held by the one that the region belongs to
        Call call = nullptr;
        void *context = nullptr;
        size_t tasks = 0;
        alignas(64) std::atomic<size_t> next{0};
        alignas(64) std::atomic<uint32_t> gate{0};

        void claim_tasks();
        void help();
        void wait_for_workers();
    };

    // Callers that compute at the same time; more of them wait for one of these.
    static constexpr size_t REGIONS = 4;

    void run_region(size_t tasks, Call call, void *context);
    std::unique_lock<std::mutex> take_region(Region *&region);
    void work();
    void wait_for_epoch(uint32_t seen);
    void stop();

    std::array<Region, REGIONS> regions_;
    alignas(64) std::atomic<uint32_t> epoch_{0}; // counts regions; workers sleep on it
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> workers_;
};

} // namespace v2e
