#include "picture/pixel_meter.hpp"

#include "base/error.hpp"

namespace v2e {

void PixelMeter::ask() {
    spent_ = 0;
    if (go_on_ && !go_on_())
        fail(V2E_ERROR_CANCELLED, "The call was cancelled.");
}

} // namespace v2e
