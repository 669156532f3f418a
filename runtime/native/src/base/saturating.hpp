// Sizes that are computed from numbers of an untrusted source.
#pragma once

#include <compare>
#include <concepts>
#include <cstdint>

namespace v2e {

// A number of bytes or values whose sums and products stop at the largest number instead of beginning again at 0, and
// whose differences stop at 0.
class Saturating {
  public:
    static constexpr uint64_t MOST = UINT64_MAX;

    constexpr Saturating() = default;
    template <std::integral Value> // not negative
    constexpr Saturating(Value value) : value_(static_cast<uint64_t>(value)) {}

    constexpr uint64_t value() const { return value_; }

    friend constexpr Saturating operator+(Saturating a, Saturating b) {
        return a.value_ > MOST - b.value_ ? MOST : a.value_ + b.value_;
    }
    friend constexpr Saturating operator-(Saturating a, Saturating b) {
        return a.value_ < b.value_ ? uint64_t{0} : a.value_ - b.value_;
    }
    friend constexpr Saturating operator*(Saturating a, Saturating b) {
        return b.value_ != 0 && a.value_ > MOST / b.value_ ? MOST : a.value_ * b.value_;
    }
    friend constexpr Saturating operator/(Saturating a, Saturating b) { return a.value_ / b.value_; }
    friend constexpr auto operator<=>(const Saturating &, const Saturating &) = default;
    constexpr Saturating &operator+=(Saturating other) { return *this = *this + other; }

  private:
    uint64_t value_ = 0;
};

} // namespace v2e
