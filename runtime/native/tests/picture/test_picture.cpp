// Pictures through the header: from a host's pixels, from a small file, refused, cancelled.
#include "picture/decode/upright.hpp"
#include "tests/check.hpp"
#include "valley2.h"

#include <array>
#include <cstring>
#include <string>
#include <vector>

using namespace v2e;

namespace {

// A bitmap of 2 x 2 pixels: the lower row is stored first, and a pixel's blue first.
std::vector<uint8_t> small_bitmap() {
    std::vector<uint8_t> file(14 + 40 + 16, 0);
    const auto put = [&](size_t place, uint32_t value) { std::memcpy(file.data() + place, &value, 4); };
    file[0] = 'B';
    file[1] = 'M';
    put(10, 54);
    put(14, 40);
    put(18, 2);
    put(22, 2);
    file[26] = 1;
    file[28] = 24;
    const uint8_t rows[] = {9, 8, 7, 12, 11, 10, 0, 0, 3, 2, 1, 6, 5, 4, 0, 0};
    std::memcpy(file.data() + 54, rows, sizeof rows);
    return file;
}

v2e_picture_options some_options() {
    v2e_picture_options options{};
    options.struct_size = sizeof options;
    return options;
}

v2e_picture_description describe(const v2e_picture *picture) {
    v2e_picture_description description{};
    description.struct_size = sizeof description;
    REQUIRE(v2e_picture_describe(picture, &description) == V2E_OK);
    return description;
}

std::vector<uint8_t> pixels_of(const v2e_picture *picture) {
    const v2e_picture_description size = describe(picture);
    const uint8_t *first = v2e_picture_pixels(picture);
    return {first, first + size_t{3} * size.width * size.height};
}

} // namespace

TEST_CASE("a bitmap gives its pixels from the upper row on") {
    const std::vector<uint8_t> file = small_bitmap();
    CHECK(v2e_picture_kind_of(file.data(), file.size()) == V2E_PICTURE_BMP);
    v2e_picture *picture = nullptr;
    REQUIRE(v2e_picture_decode(file.data(), file.size(), nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == std::vector<uint8_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    CHECK(describe(picture).kind == V2E_PICTURE_BMP);
    CHECK(describe(picture).frames == 1);
    v2e_picture_close(picture);
}

TEST_CASE("a host's pixels come in its own order, with gaps between rows or upside down") {
    const uint8_t bgra[] = {3, 2, 1, 99, 6, 5, 4, 99, 77, 77, 9, 8, 7, 99, 12, 11, 10, 99};
    const std::vector<uint8_t> upright{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    v2e_picture *picture = nullptr;
    REQUIRE(v2e_picture_from_pixels(bgra, 2, 2, 10, V2E_PIXELS_BGRA, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == upright);
    v2e_picture_close(picture);
    REQUIRE(v2e_picture_from_pixels(bgra + 10, 2, 2, -10, V2E_PIXELS_BGRA, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == std::vector<uint8_t>{7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6});
    v2e_picture_close(picture);
    REQUIRE(v2e_picture_from_pixels(upright.data(), 2, 2, 0, V2E_PIXELS_RGB, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == upright);
    v2e_picture_close(picture);
    REQUIRE(v2e_picture_from_pixels(upright.data(), 2, 2, 0, V2E_PIXELS_BGR, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == std::vector<uint8_t>{3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10});
    v2e_picture_close(picture);
    REQUIRE(v2e_picture_from_pixels(upright.data(), 2, 1, 8, V2E_PIXELS_RGBA, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == std::vector<uint8_t>{1, 2, 3, 5, 6, 7});
    v2e_picture_close(picture);
    REQUIRE(v2e_picture_from_pixels(upright.data(), 2, 2, 3, V2E_PIXELS_GREY, nullptr, &picture) == V2E_OK);
    CHECK(pixels_of(picture) == std::vector<uint8_t>{1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5});
    v2e_picture_close(picture);
}

TEST_CASE("what is no picture, too large or no format is refused in a sentence") {
    const uint8_t pixels[12] = {};
    v2e_picture *picture = nullptr;
    CHECK(v2e_picture_from_pixels(pixels, 0, 2, 0, V2E_PIXELS_RGB, nullptr, &picture) == V2E_ERROR_INPUT);
    CHECK(v2e_picture_from_pixels(pixels, 2, 2, 5, V2E_PIXELS_RGB, nullptr, &picture) == V2E_ERROR_INPUT);
    CHECK(v2e_picture_from_pixels(pixels, 2, 2, 0, 5, nullptr, &picture) == V2E_ERROR_INPUT);
    CHECK(v2e_picture_from_pixels(nullptr, 2, 2, 0, V2E_PIXELS_RGB, nullptr, &picture) == V2E_ERROR_INPUT);
    v2e_picture_options options = some_options();
    options.max_pixels = 3;
    options.name = "photo.bmp";
    const std::vector<uint8_t> file = small_bitmap();
    CHECK(v2e_picture_decode(file.data(), file.size(), &options, &picture) == V2E_ERROR_INPUT);
    CHECK(std::string(v2e_last_error()) ==
          "photo.bmp is too large with its 2 x 2 pixels: pictures may have 3 pixels at most.");
    options.max_pixels = 178956971;
    CHECK(v2e_picture_decode(file.data(), file.size(), &options, &picture) == V2E_ERROR_INPUT);
    options.max_pixels = 4;
    CHECK(v2e_picture_decode(file.data(), file.size() - 3, &options, &picture) == V2E_ERROR_INPUT);
    CHECK(std::string(v2e_last_error()).find("photo.bmp is truncated or damaged: ") == 0);
    CHECK(v2e_picture_decode("II*\0nothing", 11, &options, &picture) == V2E_ERROR_UNREAD);
    CHECK(v2e_picture_decode(nullptr, 0, &options, &picture) == V2E_ERROR_UNREAD);
    CHECK(v2e_picture_decode(nullptr, 1, &options, &picture) == V2E_ERROR_INPUT);
    CHECK(picture == nullptr);
    CHECK(v2e_picture_pixels(nullptr) == nullptr);
    v2e_picture_close(nullptr);
}

TEST_CASE("a cancel stops a picture, and is legal after everything is closed") {
    v2e_cancel *cancel = nullptr;
    REQUIRE(v2e_cancel_create(&cancel) == V2E_OK);
    v2e_picture_options options = some_options();
    options.cancel = cancel;
    const std::vector<uint8_t> file = small_bitmap();
    v2e_picture *picture = nullptr;
    v2e_cancel_set(cancel);
    CHECK(v2e_picture_decode(file.data(), file.size(), &options, &picture) == V2E_ERROR_CANCELLED);
    CHECK(v2e_picture_from_pixels(file.data(), 2, 2, 0, V2E_PIXELS_RGB, &options, &picture) == V2E_ERROR_CANCELLED);
    v2e_cancel_clear(cancel);
    CHECK(v2e_picture_decode(file.data(), file.size(), &options, &picture) == V2E_OK);
    v2e_picture_close(picture);
    v2e_cancel_set(cancel);
    v2e_cancel_destroy(cancel);
    v2e_cancel_destroy(nullptr);
    v2e_cancel_set(nullptr);
    v2e_cancel_clear(nullptr);
}

TEST_CASE("a callback hears of pixels and stops them") {
    std::vector<uint8_t> pixels(size_t{3} * 2000 * 1000);
    v2e_picture_options options = some_options();
    int heard = 0;
    options.user_data = &heard;
    options.callback = [](const v2e_event *event, void *user_data) {
        CHECK(event->kind == V2E_EVENT_PIXELS);
        return ++*static_cast<int *>(user_data) == 2 ? 1 : 0;
    };
    v2e_picture *picture = nullptr;
    CHECK(v2e_picture_from_pixels(pixels.data(), 2000, 1000, 0, V2E_PIXELS_RGB, &options, &picture) ==
          V2E_ERROR_CANCELLED);
    CHECK(heard == 2);
}

TEST_CASE("equal pixels of equal sizes have one digest") {
    std::array<uint8_t, 12> pixels{};
    const auto digest_of = [&](uint32_t width, uint32_t height) {
        v2e_picture *picture = nullptr;
        REQUIRE(v2e_picture_from_pixels(pixels.data(), width, height, 0, V2E_PIXELS_RGB, nullptr, &picture) == V2E_OK);
        std::array<uint8_t, 32> digest{};
        CHECK(v2e_picture_digest(picture, digest.data()) == V2E_OK);
        v2e_picture_close(picture);
        return digest;
    };
    const auto first = digest_of(2, 2);
    CHECK(first == digest_of(2, 2));
    CHECK(first != digest_of(4, 1));
    pixels[11] = 1;
    CHECK(first != digest_of(2, 2));
}

TEST_CASE("each orientation turns a picture its own way") {
    // 2 columns, 3 rows: each pixel by its number.
    const std::vector<std::vector<uint8_t>> turned = {{0, 1, 2, 3, 4, 5}, {1, 0, 3, 2, 5, 4}, {5, 4, 3, 2, 1, 0},
                                                      {4, 5, 2, 3, 0, 1}, {0, 2, 4, 1, 3, 5}, {4, 2, 0, 5, 3, 1},
                                                      {5, 3, 1, 4, 2, 0}, {1, 3, 5, 0, 2, 4}};
    for (uint32_t orientation = 1; orientation <= 8; ++orientation) {
        auto pixels = std::make_unique<uint8_t[]>(18);
        for (uint8_t place = 0; place < 18; ++place)
            pixels[place] = place / 3;
        PixelMeter meter({});
        const auto result = turn_upright(std::move(pixels), {2, 3}, orientation, meter);
        for (size_t place = 0; place < 18; ++place)
            CHECK(result[place] == turned[orientation - 1][place / 3]);
    }
}
