#include "base/stop_flag.hpp"

#include "base/error.hpp"

namespace v2e {

void StopFlag::begin_call() noexcept {
    seen_.store(false, std::memory_order_relaxed);
}

void StopFlag::begin_call(std::shared_ptr<const CancelFlag> cancel) noexcept {
    cancel_ = std::move(cancel);
    begin_call();
}

void StopFlag::clear() noexcept {
    wanted_.store(false, std::memory_order_relaxed);
    counting_.store(false, std::memory_order_relaxed);
}

bool StopFlag::stops() const noexcept {
    if (counting_.load(std::memory_order_relaxed) && looks_.fetch_add(1) >= set_at_)
        seen_.store(true, std::memory_order_relaxed);
    if (seen_.load(std::memory_order_relaxed))
        return true;
    if (!wanted_.load(std::memory_order_relaxed) && (cancel_ == nullptr || !cancel_->is_set()))
        return false;
    seen_.store(true, std::memory_order_relaxed);
    return true;
}

void StopFlag::set_at_look(size_t look) noexcept {
    looks_.store(0);
    set_at_ = look;
    counting_.store(true);
}

bool stops(const StopFlag *flag) noexcept {
    return flag != nullptr && flag->stops();
}

void require_going(const StopFlag *flag) {
    if (stops(flag))
        fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
}

} // namespace v2e
