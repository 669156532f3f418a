#include "conversation/engine.hpp"

#include <algorithm>
#include <utility>

namespace v2e {

Engine::~Engine() {
    {
        const std::lock_guard<std::mutex> lock(lock_);
        quits_ = true;
    }
    added_.notify_all();
    if (thread_.joinable())
        thread_.join();
}

void Engine::add(std::shared_ptr<Work> work) {
    const std::lock_guard<std::mutex> lock(lock_);
    if (!thread_.joinable())
        thread_ = std::thread([this] { run(); });
    waiting_.push_back(std::move(work));
    added_.notify_one();
}

bool Engine::is_running(const Work *work) const {
    return std::find(running_.begin(), running_.end(), work) != running_.end();
}

bool Engine::drop_waiting(const Work *work) {
    const auto found =
        std::find_if(waiting_.begin(), waiting_.end(), [work](const auto &one) { return one.get() == work; });
    if (found == waiting_.end())
        return false;
    waiting_.erase(found);
    return true;
}

void Engine::remove(const Work *work) {
    std::unique_lock<std::mutex> lock(lock_);
    const bool from_within = std::this_thread::get_id() == thread_.get_id();
    // A work whose step ends may stand in the queue again.
    while (drop_waiting(work) || (!from_within && is_running(work)))
        if (!from_within && is_running(work))
            stepped_.wait(lock);
}

bool Engine::take(const Work *work) {
    const std::lock_guard<std::mutex> lock(lock_);
    return !is_running(work) && drop_waiting(work);
}

// The engine's reference goes before anybody hears that the step is over: who waits for that has another one, so that
// what the work keeps alive never ends on this thread, which would have to wait for itself.
void Engine::step(std::shared_ptr<Work> work, std::unique_lock<std::mutex> &lock) {
    running_.push_back(work.get());
    lock.unlock();
    const Work::Next next = work->step();
    lock.lock();
    if (next == Work::Next::again)
        waiting_.push_back(std::move(work));
    work.reset();
    running_.pop_back();
    stepped_.notify_all();
}

void Engine::let_others() {
    std::unique_lock<std::mutex> lock(lock_);
    const auto is_short = [](const std::shared_ptr<Work> &work) { return work->is_short(); };
    for (auto left = std::count_if(waiting_.begin(), waiting_.end(), is_short); left > 0; --left) {
        const auto found = std::find_if(waiting_.begin(), waiting_.end(), is_short);
        if (found == waiting_.end())
            return;
        std::shared_ptr<Work> work = std::move(*found);
        waiting_.erase(found);
        step(std::move(work), lock);
    }
}

void Engine::run() {
    std::unique_lock<std::mutex> lock(lock_);
    for (;;) {
        added_.wait(lock, [this] { return quits_ || !waiting_.empty(); });
        if (quits_)
            return;
        std::shared_ptr<Work> work = std::move(waiting_.front());
        waiting_.pop_front();
        step(std::move(work), lock);
    }
}

} // namespace v2e
