#include "picture/picture.hpp"

#include <utility>

namespace v2e {

Picture::Picture(const PictureHeader &header, std::unique_ptr<uint8_t[]> pixels)
    : header_(header), pixels_(std::move(pixels)) {}

const Digest::Value &Picture::digest() const {
    std::call_once(once_, [this] {
        const Size size = this->size();
        uint8_t sides[8];
        for (int place = 0; place < 4; ++place) {
            sides[place] = static_cast<uint8_t>(size.width >> 8 * place);
            sides[4 + place] = static_cast<uint8_t>(size.height >> 8 * place);
        }
        Digest digest;
        digest.add(sides, sizeof sides);
        digest.add(pixels(), size_t{3} * size.width * size.height);
        digest_ = digest.finish();
    });
    return digest_;
}

} // namespace v2e
