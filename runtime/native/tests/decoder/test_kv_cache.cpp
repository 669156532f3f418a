// Pages of the KV cache: how many there are, and that no place lies in another.
#include "cpu/elementwise/elementwise.hpp"
#include "cpu/isa.hpp"
#include "decoder/kv_cache.hpp"
#include "tests/check.hpp"
#include "tests/kv_elements.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace v2e;

TEST_CASE("a KV cache grows by pages that stay where they are") {
    for (const KvPrecision precision : ALL_PRECISIONS) {
        KvCache cache(3, 2, 32, precision);
        CHECK(cache.bytes() == 0);
        cache.reserve(1);
        const uint64_t page = cache.bytes();
        const size_t bytes = precision == KvPrecision::fp32 ? 4 * 32 : precision == KvPrecision::fp16 ? 2 * 32 : 32 + 4;
        CHECK(page == 3 * 2 * 2 * KV_PAGE * bytes);
        *cache.value(2, 1, 0) = std::byte{42};
        const std::byte *before = cache.value(2, 1, 0);
        cache.reserve(KV_PAGE);
        CHECK(cache.bytes() == page);
        cache.reserve(20 * KV_PAGE + 1);
        CHECK(cache.bytes() == 21 * page);
        CHECK(cache.value(2, 1, 0) == before);
        CHECK(*before == std::byte{42});
        cache.trim(KV_PAGE + 1);
        CHECK(cache.bytes() == 2 * page);
        CHECK(cache.value(2, 1, 0) == before);
        cache.trim(0);
        CHECK(cache.bytes() == 0);
    }
}

TEST_CASE("the places of a KV cache do not overlap") {
    for (const KvPrecision precision : ALL_PRECISIONS) {
        const size_t layers = 2, heads = 2, size = 16, length = KV_PAGE + 3;
        KvCache cache(layers, heads, size, precision);
        cache.reserve(length);
        const ElementwiseKernels &kernels = elementwise_kernels(best_isa());
        const auto row = [&](size_t layer, size_t head, size_t position, size_t kind) {
            return std::vector<float>(size, static_cast<float>(((layer * 2 + head) * 2 + kind) * 300 + position + 1));
        };
        for (size_t layer = 0; layer < layers; ++layer)
            for (size_t head = 0; head < heads; ++head)
                for (size_t i = 0; i < length; ++i) {
                    kernels.store_key(row(layer, head, i, 0).data(), size, precision, cache.key(layer, head, i),
                                      cache.key_step(layer, head, i));
                    kernels.store_value(row(layer, head, i, 1).data(), size, precision, cache.value(layer, head, i),
                                        cache.value_step(layer, head, i));
                }
        double most = 0; // relative error
        const auto compare = [&](const std::byte *first, size_t stride, const float *step, double expected) {
            for (size_t channel = 0; channel < size; ++channel)
                most = std::max(most, std::abs(element(first, channel * stride, precision, step) / expected - 1));
        };
        for (size_t layer = 0; layer < layers; ++layer)
            for (size_t head = 0; head < heads; ++head)
                for (size_t i = 0; i < length; ++i) {
                    compare(cache.key(layer, head, i), KEY_LANES, cache.key_step(layer, head, i),
                            row(layer, head, i, 0)[0]);
                    compare(cache.value(layer, head, i), 1, cache.value_step(layer, head, i),
                            row(layer, head, i, 1)[0]);
                }
        CHECK(most < 1e-3);
    }
}
