// Parallel regions: every task once, in turn, from several callers.
#include "base/stop_flag.hpp"
#include "base/thread_pool.hpp"
#include "tests/check.hpp"

#include <chrono>

using namespace v2e;

TEST_CASE("a thread pool runs every task once") {
    for (const unsigned threads : {1u, 2u, 3u, 8u}) {
        ThreadPool pool(threads);
        CHECK(pool.threads() == threads);
        for (const size_t tasks : {0u, 1u, 2u, 7u, 1000u}) {
            std::vector<std::atomic<int>> counts(tasks);
            pool.run(tasks, [&](size_t task) { counts[task].fetch_add(1); });
            for (const std::atomic<int> &count : counts)
                CHECK(count.load() == 1);
        }
    }
}

TEST_CASE("zero threads mean the caller alone") {
    ThreadPool pool(0);
    CHECK(pool.threads() == 1);
    size_t sum = 0;
    pool.run(5, [&](size_t task) { sum += task; });
    CHECK(sum == 10);
}

TEST_CASE("results of a thread pool are visible to the caller after many short regions") {
    ThreadPool pool(3);
    std::vector<size_t> values(6, 0);
    for (size_t round = 1; round <= 20000; ++round) {
        pool.run(values.size(), [&](size_t task) { values[task] += task + 1; });
        for (size_t task = 0; task < values.size(); ++task)
            if (values[task] != round * (task + 1)) {
                CHECK(values[task] == round * (task + 1));
                return;
            }
    }
}

TEST_CASE("a thread pool wakes workers that fell asleep") {
    ThreadPool pool(2);
    for (int round = 0; round < 20; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2)); // far longer than the workers spin
        std::atomic<int> inside{0};
        std::atomic<bool> both{false};
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        pool.run(2, [&](size_t) { // two tasks that wait for each other need two threads
            if (inside.fetch_add(1) == 1)
                both.store(true);
            while (!both.load() && std::chrono::steady_clock::now() < deadline)
                std::this_thread::yield();
        });
        CHECK(both.load());
    }
}

TEST_CASE("a thread pool serves several callers") {
    ThreadPool pool(2);
    std::vector<std::thread> callers;
    std::atomic<size_t> total{0};
    for (size_t caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                std::atomic<size_t> own{0};
                pool.run(9, [&](size_t) { own.fetch_add(1); });
                total.fetch_add(own.load());
            }
        });
    for (std::thread &caller : callers)
        caller.join();
    CHECK(total.load() == 3 * 500 * 9);
}

TEST_CASE("a stopped region begins at most one more task a thread") {
    for (const unsigned threads : {1u, 2u, 3u, 8u})
        for (const size_t at : {0u, 5u, 199u}) {
            ThreadPool pool(threads);
            StopFlag stop;
            std::atomic<bool> set{false};
            std::vector<std::atomic<int>> late(threads);
            CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled",
                        pool.run_workers(threads, 200, &stop, [&](size_t worker, size_t task) {
                            if (set.load())
                                late[worker].fetch_add(1);
                            if (task == at) {
                                stop.set();
                                set.store(true);
                            }
                        }));
            for (const std::atomic<int> &count : late)
                CHECK(count.load() <= 1);
        }
}

TEST_CASE("a region without a stop flag runs every task once") {
    ThreadPool pool(3);
    StopFlag stop;
    std::vector<std::atomic<int>> counts(100);
    pool.run_workers(2, counts.size(), &stop, [&](size_t worker, size_t task) {
        CHECK(worker < 2);
        counts[task].fetch_add(1);
    });
    for (const std::atomic<int> &count : counts)
        CHECK(count.load() == 1);
}

TEST_CASE("a short region ends while another caller's long one goes on") {
    ThreadPool pool(2);
    std::atomic<int> inside{0};
    std::atomic<bool> over{false};
    const auto wait_for = [](auto &&ready) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (!ready() && std::chrono::steady_clock::now() < deadline)
            std::this_thread::yield();
        return ready();
    };
    std::thread other([&] {
        pool.run(2, [&](size_t) {
            inside.fetch_add(1);
            wait_for([&] { return over.load(); });
        });
    });
    CHECK(wait_for([&] { return inside.load() == 2; })); // every thread of the pool is in it
    std::atomic<size_t> sum{0};
    pool.run(5, [&](size_t task) { sum.fetch_add(task); });
    CHECK(sum.load() == 10);
    CHECK(!over.load());
    over.store(true);
    other.join();
}

TEST_CASE("more callers than a thread pool has regions are all served") {
    ThreadPool pool(3);
    std::vector<std::thread> callers;
    std::atomic<size_t> total{0};
    for (size_t caller = 0; caller < 9; ++caller)
        callers.emplace_back([&] {
            for (int round = 0; round < 200; ++round)
                pool.run(7, [&](size_t) { total.fetch_add(1); });
        });
    for (std::thread &caller : callers)
        caller.join();
    CHECK(total.load() == 9 * 200 * 7);
}
