// Embeddings of earlier pictures: when they are found, what goes first, and what a picture is known by.
#include "picture/geometry.hpp"
#include "tests/check.hpp"
#include "vision/embedding_cache.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

using namespace v2e;

namespace {

constexpr uint64_t SIZE = 3 * 4 * sizeof(float); // bytes of what `embeddings` makes

SharedEmbeddings embeddings(float value) {
    return std::make_shared<const PictureEmbeddings>(PictureEmbeddings{3, 4, std::vector<float>(12, value)});
}

EmbeddingCache::Key key(uint8_t number) {
    return {number};
}

bool always() {
    return true;
}

GeometryOptions options(bool eagle = true) {
    v2e_geometry_options given{};
    given.struct_size = sizeof given;
    given.no_eagle = eagle ? 0 : 1;
    return complete_options(&given);
}

} // namespace

TEST_CASE("what was kept is found again, and nothing else") {
    EmbeddingCache cache(10 * SIZE);
    const SharedEmbeddings kept = embeddings(1);
    cache.keep(key(1), kept);
    CHECK(cache.find(key(1)) == kept);
    CHECK(cache.find(key(2)) == nullptr);
    CHECK(cache.used_bytes() == SIZE);
}

TEST_CASE("what was used least recently goes first") {
    EmbeddingCache cache(2 * SIZE);
    cache.keep(key(1), embeddings(1));
    cache.keep(key(2), embeddings(2));
    CHECK(cache.find(key(1)) != nullptr);
    cache.keep(key(3), embeddings(3));
    CHECK(cache.used_bytes() == 2 * SIZE);
    CHECK(cache.find(key(1)) != nullptr);
    CHECK(cache.find(key(2)) == nullptr);
    CHECK(cache.find(key(3)) != nullptr);
}

TEST_CASE("a budget is kept by what is too large and by a smaller one") {
    EmbeddingCache cache(SIZE - 1);
    cache.keep(key(1), embeddings(1));
    CHECK(cache.used_bytes() == 0);
    cache.resize(3 * SIZE);
    for (uint8_t number = 1; number <= 3; ++number)
        cache.keep(key(number), embeddings(number));
    CHECK(cache.used_bytes() == 3 * SIZE);
    cache.resize(SIZE);
    CHECK(cache.used_bytes() == SIZE);
    CHECK(cache.find(key(3)) != nullptr);
    cache.clear();
    CHECK(cache.used_bytes() == 0);
    CHECK(cache.find(key(3)) == nullptr);
    CHECK(cache.budget_bytes() == SIZE);
}

TEST_CASE("a budget of 0 keeps nothing") {
    EmbeddingCache cache(0);
    cache.keep(key(1), embeddings(1));
    CHECK(cache.find(key(1)) == nullptr);
}

TEST_CASE("the first of two threads that keep the same picture is believed") {
    EmbeddingCache cache(10 * SIZE);
    const SharedEmbeddings first = embeddings(1);
    cache.keep(key(1), first);
    cache.keep(key(1), embeddings(2));
    CHECK(cache.find(key(1)) == first);
    CHECK(cache.used_bytes() == SIZE);
}

TEST_CASE("many threads share a cache") {
    EmbeddingCache cache(3 * SIZE);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < 4; ++index)
        threads.emplace_back([&cache, &wrong, index] {
            for (unsigned step = 0; step < 500; ++step) {
                const auto number = static_cast<uint8_t>((index + step) % 5);
                const SharedEmbeddings found = cache.find(key(number));
                if (found == nullptr)
                    cache.keep(key(number), embeddings(number));
                else if (found->values.front() != number)
                    ++wrong;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(wrong == 0);
    CHECK(cache.used_bytes() == 3 * SIZE);
}

TEST_CASE("a picture is known by its pixels, its shape and what becomes of it") {
    const std::vector<uint8_t> pixels(3 * 60 * 40, 7);
    std::vector<uint8_t> others = pixels;
    others.back() = 8;
    const auto known = [](const std::vector<uint8_t> &picture, Size size, const GeometryOptions &chosen) {
        return picture_key(picture.data(), plan_picture(size, chosen), chosen, always);
    };
    const Digest::Value one = known(pixels, {60, 40}, options());
    CHECK(known(pixels, {60, 40}, options()) == one);
    CHECK(known(others, {60, 40}, options()) != one);
    CHECK(known(pixels, {40, 60}, options()) != one);
    CHECK(known(pixels, {60, 40}, options(false)) != one);
    GeometryOptions capped = options();
    capped.eagle_max_pixels /= 2; // the plan of this picture is the same
    CHECK(known(pixels, {60, 40}, capped) != one);
}

TEST_CASE("a large picture is hashed in pieces, and stops between them") {
    const Size size{3000, 4000};
    const std::vector<uint8_t> pixels(size_t{3} * size.width * size.height);
    const GeometryOptions chosen = options();
    const v2e_geometry geometry = plan_picture(size, chosen);
    int asked = 0;
    CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled",
                picture_key(pixels.data(), geometry, chosen, [&] { return ++asked < 3; }));
    CHECK(asked == 3);
}
