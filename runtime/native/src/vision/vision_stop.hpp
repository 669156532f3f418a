// What stops one call of the vision encoder.
#pragma once

#include "base/stop_flag.hpp"
#include "vision/tower.hpp"

#include <mutex>

namespace v2e {

// Any thread sets and clears it, before, during and after the call: a call that waits for another one ends at once, one
// of the core's own towers at its next piece of work, and a backend is told. It belongs to one call at a time.
class VisionStop {
  public:
    VisionStop() = default;
    VisionStop(const VisionStop &) = delete;
    VisionStop &operator=(const VisionStop &) = delete;

    // Holds for the calls that follow as well, until it is cleared.
    void set();
    void clear() { flag_.clear(); }

    StopFlag &flag() { return flag_; }

    // Fails with V2E_ERROR_CANCELLED when it is set.
    void require_going() const { v2e::require_going(&flag_); }

    // Runs the tower, which the stop reaches while it runs.
    void run(Tower &tower, const TowerCall &call);

  private:
    void watch(Tower *tower);

    StopFlag flag_;
    // Recursive: a signal handler may stop while this very thread does.
    std::recursive_mutex lock_;
    Tower *running_ = nullptr; // the tower that is to be told
};

} // namespace v2e
