#include "vision/vision_stop.hpp"

namespace v2e {

void VisionStop::set() {
    flag_.set();
    const std::lock_guard<std::recursive_mutex> lock(lock_);
    if (running_ != nullptr)
        running_->cancel();
}

void VisionStop::watch(Tower *tower) {
    const std::lock_guard<std::recursive_mutex> lock(lock_);
    running_ = tower;
}

void VisionStop::run(Tower &tower, const TowerCall &call) {
    // From now on a stop reaches the tower; whoever stopped before has set the flag.
    watch(&tower);
    try {
        require_going();
        run_tower(tower, call);
    } catch (...) {
        watch(nullptr);
        tower.stop().clear();
        throw;
    }
    watch(nullptr);
    tower.stop().clear();
}

} // namespace v2e
