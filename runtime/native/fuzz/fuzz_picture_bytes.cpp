// Files of pictures: 2 bytes of options, then a file. What the headers promise is what is decoded, and a callback may
// stop the decoding anywhere.
#include "fuzz/fuzz.hpp"

#include <vector>

namespace {

constexpr uint64_t MOST_PIXELS = 1 << 14; // of a picture, so that a run is short

// Counts down, then cancels.
int stop_after(const v2e_event *event, void *user_data) {
    MUST(event->kind == V2E_EVENT_PIXELS);
    auto *left = static_cast<uint32_t *>(user_data);
    return *left == 0 || --*left == 0;
}

// Every pixel is there.
uint32_t sum(const uint8_t *pixels, size_t count) {
    uint32_t total = 0;
    for (size_t place = 0; place < count; ++place)
        total += pixels[place];
    return total;
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2)
        return 0;
    uint32_t looks = data[1] < 128 ? UINT32_MAX : data[1] - 127u;
    v2e_picture_options options{};
    options.struct_size = sizeof options;
    options.max_pixels = MOST_PIXELS;
    options.strict = data[0] % 2;
    options.callback = stop_after;
    options.user_data = &looks;
    // A copy that ends where the file does, so that a look behind it is found.
    const std::vector<uint8_t> file(data + 2, data + size);

    v2e_picture_description promised{};
    promised.struct_size = sizeof promised;
    const v2e_status inspected = fuzz::seen(v2e_picture_inspect(file.data(), file.size(), &options, &promised));
    MUST(inspected == V2E_OK || inspected == V2E_ERROR_INPUT);
    v2e_picture *picture = nullptr;
    const v2e_status decoded = fuzz::seen(v2e_picture_decode(file.data(), file.size(), &options, &picture));
    MUST((decoded == V2E_OK) == (picture != nullptr));
    if (decoded != V2E_ERROR_CANCELLED) {
        MUST(inspected == V2E_OK || decoded == V2E_ERROR_INPUT);
        MUST((decoded == V2E_ERROR_UNREAD) == (inspected == V2E_OK && promised.readable == 0));
    }
    if (picture == nullptr)
        return 0;
    v2e_picture_description found{};
    found.struct_size = sizeof found;
    MUST(v2e_picture_describe(picture, &found) == V2E_OK);
    MUST(found.width == promised.width && found.height == promised.height && found.frames == promised.frames);
    MUST(found.kind == v2e_picture_kind_of(file.data(), file.size()));
    MUST(uint64_t{found.width} * found.height <= MOST_PIXELS && found.width > 0 && found.height > 0);
    volatile uint32_t kept = sum(v2e_picture_pixels(picture), size_t{3} * found.width * found.height);
    static_cast<void>(kept);
    uint8_t digest[32];
    MUST(v2e_picture_digest(picture, digest) == V2E_OK);
    v2e_picture_close(picture);
    return 0;
}
