// The thread that answers: it takes turns among those who ask, and sleeps when nobody does.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace v2e {

// Something that is done in steps. While it is with the engine only its steps may touch what it works on.
class Work {
  public:
    enum class Next {
        again, // after the others had their turns
        rest   // nothing is to be done until it is added again
    };

    virtual ~Work() = default;
    // One piece of work, on the engine's thread.
    virtual Next step() noexcept = 0;
    // Whether a step takes no longer than a token does: such work may go between two pieces of another's step.
    virtual bool is_short() const noexcept = 0;
};

// Safe for threads. It keeps what is added alive until that rests.
class Engine {
  public:
    Engine() = default;
    ~Engine(); // nothing may be with it
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    // The first call starts the thread. The work is not with the engine, or is about to rest.
    void add(std::shared_ptr<Work> work);
    // Takes the work away; waits for the end of its step if one is running, unless the engine's own thread asks.
    // Whoever asks holds a reference to it.
    void remove(const Work *work);
    // Takes the work away if no step of it is running; whether it waited for its turn.
    bool take(const Work *work);
    // Called in a step, between two pieces of it: one step of every short work that waits.
    void let_others();

  private:
    void run();
    bool is_running(const Work *work) const;
    void step(std::shared_ptr<Work> work, std::unique_lock<std::mutex> &lock);
    bool drop_waiting(const Work *work);

    std::mutex lock_;
    std::condition_variable added_;
    std::condition_variable stepped_;
    std::deque<std::shared_ptr<Work>> waiting_;
    std::vector<const Work *> running_; // the innermost last
    bool quits_ = false;
    std::thread thread_;
};

} // namespace v2e
