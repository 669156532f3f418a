// The chunks of a PNG file (PNG specification, third edition, chapters 5 and 11), as strict as Pillow is with them.
#pragma once

#include "picture/decode/source.hpp"

#include <optional>
#include <vector>

namespace v2e {

struct PngChunks {
    Size size{0, 0};
    uint32_t depth = 0; // bits of a sample
    enum class Colour : uint8_t { grey = 0, rgb = 2, palette = 3, grey_alpha = 4, rgba = 6 } colour = Colour::grey;
    bool interlaced = false;
    Bytes palette;             // (colours, 3)
    std::vector<Bytes> pixels; // what is packed, in pieces
    bool cut = false;          // whether the last piece is not as long as it should be
    bool has_exif = false;
    Bytes exif;
    std::vector<uint8_t> xmp;

    // Samples of a pixel.
    uint32_t channels() const;
};

// Reads everything but the pixels. Nothing: a variant that is not read here, such as an animation. Fails with
// V2E_ERROR_INPUT for what Pillow takes for damage.
std::optional<PngChunks> read_chunks(Bytes bytes, const PictureOptions &options);

} // namespace v2e
