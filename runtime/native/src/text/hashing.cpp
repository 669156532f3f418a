#include "text/hashing.hpp"

#include <random>

namespace v2e {

uint64_t hash_seed() {
    static const uint64_t seed = [] {
        std::random_device device;
        return uint64_t{device()} << 32 | device();
    }();
    return seed;
}

} // namespace v2e
