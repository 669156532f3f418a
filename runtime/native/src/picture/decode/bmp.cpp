#include "picture/decode/bmp.hpp"

#include "picture/decode/palette.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

namespace v2e {
namespace {

constexpr size_t FILE_HEADER = 14; // bytes before the bitmap's own header

enum class Layout { indices, rle4, rle8, bgr15, bgr16, bytes };

struct Bitmap {
    uint64_t width = 0, height = 0;
    bool top_down = false;
    uint32_t bits = 0;
    Layout layout = Layout::indices;
    std::array<uint8_t, 3> places{2, 1, 0}; // of red, green and blue in a pixel's bytes
    Palette palette;
    size_t pixels = 0; // place of the first row
};

struct MaskedLayout {
    uint32_t bits, red, green, blue, alpha;
    Layout layout;
    std::array<uint8_t, 3> places;
};

// The masks that Pillow knows; alpha counts with 32 bits alone.
constexpr MaskedLayout MASKED[] = {
    {32, 0xff0000, 0xff00, 0xff, 0, Layout::bytes, {2, 1, 0}},
    {32, 0xff000000, 0xff0000, 0xff00, 0, Layout::bytes, {3, 2, 1}},
    {32, 0xff000000, 0xff00, 0xff, 0, Layout::bytes, {3, 1, 0}},
    {32, 0xff000000, 0xff0000, 0xff00, 0xff, Layout::bytes, {3, 2, 1}},
    {32, 0xff, 0xff00, 0xff0000, 0xff000000, Layout::bytes, {0, 1, 2}},
    {32, 0xff0000, 0xff00, 0xff, 0xff000000, Layout::bytes, {2, 1, 0}},
    {32, 0xff000000, 0xff00, 0xff, 0xff0000, Layout::bytes, {3, 1, 0}},
    {32, 0, 0, 0, 0, Layout::bytes, {2, 1, 0}},
    {24, 0xff0000, 0xff00, 0xff, 0, Layout::bytes, {2, 1, 0}},
    {16, 0xf800, 0x7e0, 0x1f, 0, Layout::bgr16, {}},
    {16, 0x7c00, 0x3e0, 0x1f, 0, Layout::bgr15, {}},
};

// Sets the layout of pixels with masks. False: Pillow has a sentence of its own about them.
bool read_masks(ByteReader &reader, Bytes header, Bitmap &bitmap) {
    std::array<uint32_t, 4> masks{};
    if (header.size() >= 52) { // the header has them, and one for alpha from 56 bytes on
        for (size_t mask = 0; mask < (header.size() >= 56 ? 4 : 3); ++mask)
            masks[mask] = low32(header.data() + 40 + 4 * mask);
    } else { // they follow the header
        const Bytes follow = reader.take(12);
        for (size_t mask = 0; mask < 3; ++mask)
            masks[mask] = low32(follow.data() + 4 * mask);
    }
    for (const MaskedLayout &known : MASKED) {
        if (known.bits == bitmap.bits && known.red == masks[0] && known.green == masks[1] && known.blue == masks[2] &&
            (known.bits != 32 || known.alpha == masks[3])) {
            bitmap.layout = known.layout;
            bitmap.places = known.places;
            return true;
        }
    }
    return false;
}

bool read_layout(ByteReader &reader, Bytes header, uint32_t compression, Bitmap &bitmap) {
    enum { raw, rle8, rle4, masked };
    if (compression == masked)
        return read_masks(reader, header, bitmap);
    if (compression == rle8 || compression == rle4) {
        bitmap.layout = compression == rle8 ? Layout::rle8 : Layout::rle4;
        return bitmap.bits <= 8;
    }
    if (bitmap.bits == 16)
        bitmap.layout = Layout::bgr15;
    else if (bitmap.bits > 16)
        bitmap.layout = Layout::bytes;
    return compression == raw;
}

// Pillow takes a palette of greys in their order for no palette, and looks at the pixels in another way then.
bool reads_palette(ByteReader &reader, uint64_t colours, size_t entry, Bitmap &bitmap) {
    if (colours == 0 || colours > 256)
        return false;
    const Bytes stored = reader.take_some(entry * static_cast<size_t>(colours));
    bool grey = stored.size() == entry * colours;
    for (size_t colour = 0; colour * entry + 3 <= stored.size(); ++colour) {
        const uint8_t *bgr = stored.data() + colour * entry;
        const size_t level = colours == 2 ? 255 * colour : colour;
        grey = grey && bgr[0] == level && bgr[1] == level && bgr[2] == level;
        bitmap.palette.set(colour, bgr[2], bgr[1], bgr[0]);
    }
    if (!grey)
        return true;
    const bool runs = bitmap.layout != Layout::indices;
    if (colours <= 2) // Pillow then reads single bits
        return colours == 2 && bitmap.bits == 1 && !runs;
    bitmap.palette.set_greys();
    return runs || bitmap.bits == 8;
}

// Nothing: a variant that is not read here.
std::optional<Bitmap> read_bitmap(Bytes bytes, const PictureOptions &options) {
    ByteReader reader(bytes, options);
    const size_t offset = low32(reader.take(FILE_HEADER).data() + 10);
    const size_t header_size = low32(reader.take(4).data());
    constexpr size_t KNOWN[] = {12, 40, 52, 56, 64, 108, 124};
    if (std::find(std::begin(KNOWN), std::end(KNOWN), header_size) == std::end(KNOWN))
        return std::nullopt;
    reader.take(header_size - 4);
    const Bytes header = bytes.subspan(FILE_HEADER, header_size);
    Bitmap bitmap;
    uint32_t compression = 0;
    uint64_t colours = 0;
    if (header_size == 12) {
        bitmap.width = low16(header.data() + 4);
        bitmap.height = low16(header.data() + 6);
        bitmap.bits = low16(header.data() + 10);
    } else {
        bitmap.top_down = header[11] == 0xff;
        const uint32_t height = low32(header.data() + 8);
        bitmap.width = low32(header.data() + 4);
        bitmap.height = bitmap.top_down ? (uint64_t{1} << 32) - height : height;
        bitmap.bits = low16(header.data() + 14);
        compression = low32(header.data() + 16);
        colours = low32(header.data() + 32);
    }
    constexpr uint32_t DEPTHS[] = {1, 4, 8, 16, 24, 32};
    if (std::find(std::begin(DEPTHS), std::end(DEPTHS), bitmap.bits) == std::end(DEPTHS))
        return std::nullopt;
    if (!read_layout(reader, header, compression, bitmap))
        return std::nullopt;
    const size_t entry = header_size == 12 ? 3 : 4;
    if (colours == 0)
        colours = bitmap.bits <= 8 ? 1u << bitmap.bits : 0;
    bitmap.pixels = offset;
    if (bitmap.bits <= 8) {
        if (!reads_palette(reader, colours, entry, bitmap))
            return std::nullopt;
        if (offset == FILE_HEADER + header_size)
            bitmap.pixels += entry * static_cast<size_t>(colours);
    }
    if (bitmap.pixels == 0)
        bitmap.pixels = reader.place();
    return bitmap;
}

// Expands one row.
void read_row(const Bitmap &bitmap, const uint8_t *row, uint8_t *rgb) {
    const size_t width = static_cast<size_t>(bitmap.width);
    if (bitmap.layout == Layout::indices) {
        bitmap.palette.expand(row, width, bitmap.bits, rgb);
    } else if (bitmap.layout == Layout::bytes) {
        for (size_t column = 0; column < width; ++column, row += bitmap.bits / 8, rgb += 3)
            for (int channel = 0; channel < 3; ++channel)
                rgb[channel] = row[bitmap.places[channel]];
    } else {
        const bool six = bitmap.layout == Layout::bgr16;
        for (size_t column = 0; column < width; ++column, row += 2, rgb += 3) {
            const int pixel = low16(row);
            rgb[0] = static_cast<uint8_t>((pixel >> (six ? 11 : 10) & 31) * 255 / 31);
            rgb[1] = static_cast<uint8_t>(six ? (pixel >> 5 & 63) * 255 / 63 : (pixel >> 5 & 31) * 255 / 31);
            rgb[2] = static_cast<uint8_t>((pixel & 31) * 255 / 31);
        }
    }
}

// Run lengths, as Pillow reads them: what a row or the file lacks is filled with index 0, or is damage.
class RunReader {
  public:
    RunReader(ByteReader &reader, const Bitmap &bitmap, PixelMeter &meter)
        : reader_(reader), meter_(meter), width_(static_cast<size_t>(bitmap.width)),
          wanted_(width_ * static_cast<size_t>(bitmap.height)), rle4_(bitmap.layout == Layout::rle4) {}

    // (height, width) indices, or fewer when the file ends before. No more than one run too many.
    std::vector<uint8_t> read() {
        indices_.reserve(wanted_ + 256);
        while (indices_.size() < wanted_ && reader_.left() >= 2 && step())
            meter_.add(16);
        return std::exchange(indices_, {});
    }

  private:
    // One run or order; false at the end.
    bool step() {
        const size_t before = indices_.size();
        const uint8_t count = reader_.take_byte();
        const uint8_t value = reader_.take_byte();
        bool more = true;
        if (count > 0)
            run(count, value);
        else if (value == 0)
            end_row();
        else if (value == 1)
            more = false;
        else if (value == 2)
            more = skip();
        else
            more = copy(value);
        meter_.add(indices_.size() - before);
        return more;
    }

    void run(size_t count, uint8_t value) {
        if (column_ + count > width_)
            count = column_ < width_ ? width_ - column_ : 0;
        if (!rle4_)
            indices_.insert(indices_.end(), count, value);
        else
            for (size_t place = 0; place < count; ++place)
                indices_.push_back(place % 2 == 0 ? value >> 4 : value & 15);
        column_ += count;
    }

    void end_row() {
        indices_.resize((indices_.size() + width_ - 1) / width_ * width_);
        column_ = 0;
    }

    bool skip() {
        if (reader_.left() < 2)
            return false;
        const Bytes move = reader_.take(2);
        indices_.resize(indices_.size() + std::min(wanted_ - indices_.size(), move[0] + move[1] * width_));
        column_ = indices_.size() % width_;
        return true;
    }

    bool copy(size_t count) {
        const size_t wanted = std::min(wanted_ - indices_.size(), count);
        const size_t stored = rle4_ ? (wanted + 1) / 2 : wanted;
        const Bytes values = reader_.take_some(stored);
        if (!rle4_)
            indices_.insert(indices_.end(), values.begin(), values.end());
        else
            for (size_t place = 0; place < values.size(); ++place) {
                indices_.push_back(values[place] >> 4);
                if (2 * place + 1 < wanted)
                    indices_.push_back(values[place] & 15);
            }
        if (values.size() < stored || indices_.size() == wanted_)
            return false;
        column_ += count;
        if (reader_.place() % 2 != 0)
            reader_.take_some(1);
        return true;
    }

    ByteReader &reader_;
    PixelMeter &meter_;
    size_t width_, wanted_;
    bool rle4_;
    size_t column_ = 0;
    std::vector<uint8_t> indices_;
};

} // namespace

PictureHeader inspect_bmp(Bytes bytes, const PictureOptions &options) {
    PictureHeader header{.kind = V2E_PICTURE_BMP};
    const std::optional<Bitmap> bitmap = read_bitmap(bytes, options);
    if (!bitmap)
        return header;
    check_size(bitmap->width, bitmap->height, options);
    header.readable = true;
    header.size = {static_cast<uint32_t>(bitmap->width), static_cast<uint32_t>(bitmap->height)};
    return header;
}

void decode_bmp(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter) {
    const Bitmap bitmap = *read_bitmap(bytes, options);
    const size_t width = static_cast<size_t>(bitmap.width), height = static_cast<size_t>(bitmap.height);
    ByteReader reader(bytes, options);
    reader.take_some(bitmap.pixels);
    const bool runs = bitmap.layout == Layout::rle4 || bitmap.layout == Layout::rle8;
    std::vector<uint8_t> indices;
    if (runs) {
        indices = RunReader(reader, bitmap, meter).read();
        if (indices.size() < width * height)
            fail_damaged(options, "the file ends too early");
    }
    const size_t stride = (width * bitmap.bits + 31) / 32 * 4;
    const size_t row_bytes = (width * bitmap.bits + 7) / 8;
    for (size_t row = 0; row < height; ++row) {
        meter.add(4 * width);
        uint8_t *target = rgb + 3 * width * (bitmap.top_down ? row : height - 1 - row);
        if (runs) {
            bitmap.palette.expand(indices.data() + row * width, width, 8, target);
        } else {
            read_row(bitmap, reader.take(row_bytes).data(), target);
            if (row + 1 < height)
                reader.take(stride - row_bytes);
        }
    }
}

} // namespace v2e
