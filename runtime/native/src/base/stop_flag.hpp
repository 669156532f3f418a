// Flags that ask running work to stop.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace v2e {

// A caller's wish to stop, with a life of its own: the caller's handle and the calls that look at it share it.
class CancelFlag {
  public:
    void set() noexcept { wanted_.store(true, std::memory_order_relaxed); }
    void clear() noexcept { wanted_.store(false, std::memory_order_relaxed); }
    bool is_set() const noexcept { return wanted_.load(std::memory_order_relaxed); }

  private:
    std::atomic<bool> wanted_{false};
};

// Any thread sets and clears it; the call that it belongs to looks at it between two pieces of work. What one look has
// seen holds for the rest of the call, even when the flag is cleared in the meantime: work may be left out already.
class StopFlag {
  public:
    StopFlag() = default;
    // Stops when the caller's flag is set, too; it may be null.
    explicit StopFlag(std::shared_ptr<const CancelFlag> cancel) : cancel_(std::move(cancel)) {}

    void set() noexcept { wanted_.store(true, std::memory_order_relaxed); }
    void clear() noexcept;
    // A call begins, which has seen nothing yet.
    void begin_call() noexcept;
    // The same for a call that stops when this flag of its caller is set, too; it may be null. Nothing looks meanwhile.
    void begin_call(std::shared_ptr<const CancelFlag> cancel) noexcept;
    // Whether to stop. Counts as one look.
    bool stops() const noexcept;

    // For tests: counts the looks from now on until it is cleared, and sets itself at the one with this number.
    void set_at_look(size_t look) noexcept;
    size_t looks() const noexcept { return looks_.load(); }

  private:
    std::shared_ptr<const CancelFlag> cancel_;
    std::atomic<bool> wanted_{false};
    mutable std::atomic<bool> seen_{false};
    std::atomic<bool> counting_{false};
    size_t set_at_ = 0;
    mutable std::atomic<size_t> looks_{0};
};

// One look; a null flag never stops. Not inline: code for every instruction set calls it.
bool stops(const StopFlag *flag) noexcept;

// Fails with V2E_ERROR_CANCELLED when the flag stops.
void require_going(const StopFlag *flag);

} // namespace v2e
