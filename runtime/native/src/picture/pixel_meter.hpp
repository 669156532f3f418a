// Work on pixels, measured so that it can be stopped.
#pragma once

#include <cstddef>
#include <functional>

namespace v2e {

// Asks after every so many multiply-adds whether to go on.
class PixelMeter {
  public:
    // Multiply-adds between two questions: few milliseconds.
    static constexpr size_t STEP = size_t{1} << 21;

    // go_on may be empty: then nothing stops the work.
    explicit PixelMeter(std::function<bool()> go_on) : go_on_(std::move(go_on)) {}

    // Is called before so many multiply-adds. Fails with V2E_ERROR_CANCELLED.
    void add(size_t products) {
        spent_ += products;
        if (spent_ >= STEP)
            ask();
    }
    // How many pieces of so many multiply-adds each fit between two questions; at least one.
    static size_t pieces(size_t products) { return products >= STEP ? 1 : STEP / (products + 1); }

  private:
    void ask();

    std::function<bool()> go_on_;
    size_t spent_ = 0;
};

} // namespace v2e
