// The test program's operator new, which counts.
#include "tests/allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__GNUC__)
#define V2E_FOR_ALL_LIBRARIES __attribute__((visibility("default"))) // a block may be freed elsewhere
#else
#define V2E_FOR_ALL_LIBRARIES
#endif

namespace {

std::atomic<size_t> given{0};

} // namespace

Allocations::Allocations() : begin_(given.load()) {}

size_t Allocations::bytes() const {
    return given.load() - begin_;
}

V2E_FOR_ALL_LIBRARIES void *operator new(size_t size) {
    void *block = std::malloc(size > 0 ? size : 1);
    if (block == nullptr)
        throw std::bad_alloc();
    given.fetch_add(size);
    return block;
}

V2E_FOR_ALL_LIBRARIES void operator delete(void *block) noexcept {
    std::free(block);
}

V2E_FOR_ALL_LIBRARIES void operator delete(void *block, size_t) noexcept {
    std::free(block);
}
