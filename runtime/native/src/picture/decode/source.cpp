#include "picture/decode/source.hpp"

#include "base/error.hpp"

#include <cinttypes>
#include <cstring>

namespace v2e {
namespace {

// 100000000 as "100,000,000".
std::string with_commas(uint64_t number) {
    std::string text = std::to_string(number);
    for (size_t place = text.size(); place > 3; place -= 3)
        text.insert(place - 3, 1, ',');
    return text;
}

} // namespace

void fail_damaged(const PictureOptions &options, const char *reason) {
    fail(V2E_ERROR_INPUT, "%s is truncated or damaged: %s.", options.name.c_str(), reason);
}

void check_size(uint64_t width, uint64_t height, const PictureOptions &options) {
    if (width == 0 || height == 0)
        fail(V2E_ERROR_INPUT, "%s is empty: %" PRIu64 " x %" PRIu64 " pixels.", options.name.c_str(), width, height);
    if (width > options.max_pixels / height)
        fail(V2E_ERROR_INPUT,
             "%s is too large with its %" PRIu64 " x %" PRIu64 " pixels: pictures may have %s pixels at most.",
             options.name.c_str(), width, height, with_commas(options.max_pixels).c_str());
}

void check_bytes(size_t size, const PictureOptions &options) {
    const uint64_t limit = BYTES_PER_PIXEL * options.max_pixels + SPARE_BYTES;
    if (size > limit)
        fail(V2E_ERROR_INPUT, "%s is too large with its %s bytes: pictures may have %s bytes at most.",
             options.name.c_str(), with_commas(size).c_str(), with_commas(limit).c_str());
}

bool has_text(Bytes bytes, size_t place, std::string_view text) {
    return place <= bytes.size() && text.size() <= bytes.size() - place &&
           std::memcmp(bytes.data() + place, text.data(), text.size()) == 0;
}

Bytes ByteReader::take(size_t count) {
    if (count > left())
        fail_damaged(options_, "the file ends too early");
    const Bytes taken = bytes_.subspan(place_, count);
    place_ += count;
    return taken;
}

} // namespace v2e
