#include "base/thread_pool.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace v2e {
namespace {

constexpr std::chrono::microseconds SPIN_TIME{50};
constexpr int PAUSES_PER_CLOCK_READ = 32;
constexpr uint32_t MOST_THREADS = 1024;

void pause_processor() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#else
    std::this_thread::yield();
#endif
}

// Spins until ready() or until SPIN_TIME is over; returns ready().
template <class Ready>
bool spin_until(Ready &&ready) {
    const auto deadline = std::chrono::steady_clock::now() + SPIN_TIME;
    do {
        for (int i = 0; i < PAUSES_PER_CLOCK_READ; ++i) {
            if (ready())
                return true;
            pause_processor();
        }
    } while (std::chrono::steady_clock::now() < deadline);
    return ready();
}

} // namespace

unsigned chosen_threads(uint32_t threads) {
    if (threads > MOST_THREADS)
        fail(V2E_ERROR_INPUT, "threads is %u; at most %u are possible.", static_cast<unsigned>(threads),
             static_cast<unsigned>(MOST_THREADS));
    return threads == 0 ? usable_threads() : threads;
}

ThreadPool::ThreadPool(unsigned threads) {
    workers_.reserve(std::max(threads, 1u) - 1);
    try {
        for (unsigned i = 1; i < threads; ++i)
            workers_.emplace_back([this] { work(); });
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    stop();
}

void ThreadPool::stop() {
    stopping_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread &worker : workers_)
        worker.join();
}

void ThreadPool::run_region(size_t tasks, Call call, void *context) {
    if (tasks == 0)
        return;
    if (tasks == 1 || workers_.empty()) {
        for (size_t task = 0; task < tasks; ++task)
            call(context, task);
        return;
    }
    Region *region = nullptr;
    const std::unique_lock<std::mutex> mine = take_region(region);
    region->call = call;
    region->context = context;
    region->tasks = tasks;
    region->next.store(0, std::memory_order_relaxed);
    region->gate.store(Region::OPEN, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    region->claim_tasks();
    region->wait_for_workers();
}

std::unique_lock<std::mutex> ThreadPool::take_region(Region *&region) {
    for (Region &one : regions_) {
        std::unique_lock<std::mutex> mine(one.caller, std::try_to_lock);
        if (mine.owns_lock()) {
            region = &one;
            return mine;
        }
    }
    region = regions_.data();
    return std::unique_lock<std::mutex>(region->caller);
}

void ThreadPool::Region::claim_tasks() {
    for (size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        call(context, task);
}

void ThreadPool::Region::help() {
    uint32_t seen = gate.load(std::memory_order_acquire);
    bool inside = false;
    while (!inside && (seen & OPEN) != 0)
        inside = gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel);
    if (!inside)
        return;
    claim_tasks();
    if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) // the caller has closed the gate and may sleep
        gate.notify_all();
}

void ThreadPool::Region::wait_for_workers() {
    uint32_t seen = gate.fetch_and(~OPEN, std::memory_order_acq_rel) & ~OPEN;
    const auto all_left = [&] { return (seen = gate.load(std::memory_order_acquire)) == 0; };
    if (seen == 0 || spin_until(all_left))
        return;
    while (!all_left())
        gate.wait(seen, std::memory_order_acquire);
}

void ThreadPool::wait_for_epoch(uint32_t seen) {
    if (spin_until([&] { return epoch_.load(std::memory_order_acquire) != seen; }))
        return;
    epoch_.wait(seen, std::memory_order_acquire);
}

void ThreadPool::work() {
    uint32_t seen = 0;
    for (;;) {
        wait_for_epoch(seen);
        seen = epoch_.load(std::memory_order_acquire);
        if (stopping_.load())
            return;
        for (Region &region : regions_)
            region.help();
    }
}

} // namespace v2e
