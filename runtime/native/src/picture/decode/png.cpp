#include "picture/decode/png.hpp"

#include "picture/decode/exif.hpp"
#include "picture/decode/palette.hpp"
#include "picture/decode/png_chunks.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include <zlib.h>

namespace v2e {
namespace {

using Colour = PngChunks::Colour;

constexpr size_t PIECE = 65536; // bytes that are unpacked at once

// Rows and columns of a pass over the picture.
struct Pass {
    uint32_t first_row, row_step, first_column, column_step;
};
constexpr Pass WHOLE[] = {{0, 1, 0, 1}};
constexpr Pass INTERLACED[] = {{0, 8, 0, 8}, {0, 8, 4, 8}, {4, 8, 0, 4}, {0, 4, 2, 4},
                               {2, 4, 0, 2}, {0, 2, 1, 2}, {1, 2, 0, 1}}; // Adam7, chapter 8

uint8_t paeth(int left, int above, int corner) {
    const int to_left = std::abs(above - corner);
    const int to_above = std::abs(left - corner);
    const int to_corner = std::abs(left + above - 2 * corner);
    if (to_left <= to_above && to_left <= to_corner)
        return static_cast<uint8_t>(left);
    return static_cast<uint8_t>(to_above <= to_corner ? above : corner);
}

// Undoes a row's filter (chapter 9). before: the row above; step: bytes of a pixel. False: an unknown filter.
bool unfilter(uint8_t filter, uint8_t *row, const uint8_t *before, size_t bytes, size_t step) {
    const size_t head = std::min(step, bytes);
    switch (filter) {
    case 0:
        return true;
    case 1:
        for (size_t place = step; place < bytes; ++place)
            row[place] = static_cast<uint8_t>(row[place] + row[place - step]);
        return true;
    case 2:
        for (size_t place = 0; place < bytes; ++place)
            row[place] = static_cast<uint8_t>(row[place] + before[place]);
        return true;
    case 3:
        for (size_t place = 0; place < head; ++place)
            row[place] = static_cast<uint8_t>(row[place] + before[place] / 2);
        for (size_t place = step; place < bytes; ++place)
            row[place] = static_cast<uint8_t>(row[place] + (row[place - step] + before[place]) / 2);
        return true;
    case 4:
        for (size_t place = 0; place < head; ++place)
            row[place] = static_cast<uint8_t>(row[place] + before[place]);
        for (size_t place = step; place < bytes; ++place)
            row[place] =
                static_cast<uint8_t>(row[place] + paeth(row[place - step], before[place], before[place - step]));
        return true;
    default:
        return false;
    }
}

// What the samples of a row mean.
class Samples {
  public:
    Samples(const PngChunks &chunks, bool strict)
        : depth_(chunks.depth), colour_(chunks.colour), channels_(chunks.channels()), cut_off_(strict) {
        if (colour_ == Colour::palette)
            for (size_t place = 0; 3 * place + 2 < chunks.palette.size(); ++place)
                palette_.set(place, chunks.palette[3 * place], chunks.palette[3 * place + 1],
                             chunks.palette[3 * place + 2]);
        else if (depth_ <= 8)
            for (size_t level = 0; level < size_t{1} << depth_; ++level) {
                const auto grey = static_cast<uint8_t>(level * 255 / ((size_t{1} << depth_) - 1));
                palette_.set(level, grey, grey, grey);
            }
    }

    // row: samples of so many columns; rgb: (columns, 3).
    void expand(const uint8_t *row, size_t columns, uint8_t *rgb) const {
        if (channels_ == 1 && depth_ <= 8)
            return palette_.expand(row, columns, depth_, rgb);
        const size_t sample = depth_ / 8;
        const size_t second = channels_ >= 3 ? sample : 0;
        const bool cut_off = cut_off_ && channels_ == 1;
        for (size_t column = 0; column < columns; ++column, row += sample * channels_, rgb += 3) {
            // The highest 8 bits; the reference has no white but 255 in pictures of 16 bits in one channel.
            const uint8_t first = cut_off && row[0] == 0 ? row[1] : cut_off ? 255 : row[0];
            rgb[0] = first;
            rgb[1] = second == 0 ? first : row[second];
            rgb[2] = second == 0 ? first : row[2 * second];
        }
    }

  private:
    uint32_t depth_;
    Colour colour_;
    size_t channels_;
    bool cut_off_;
    Palette palette_;
};

class Inflater {
  public:
    Inflater() {
        if (inflateInit(&stream_) != Z_OK)
            throw std::bad_alloc();
    }
    Inflater(const Inflater &) = delete;
    Inflater &operator=(const Inflater &) = delete;
    ~Inflater() { inflateEnd(&stream_); }

    z_stream &stream() { return stream_; }

  private:
    z_stream stream_{};
};

// Puts rows into a picture in the order in which they are stored.
class PngRows {
  public:
    PngRows(const PngChunks &chunks, const PictureOptions &options, uint8_t *rgb)
        : chunks_(chunks), options_(options), rgb_(rgb), samples_(chunks, options.strict),
          passes_(chunks.interlaced ? std::span<const Pass>(INTERLACED) : std::span<const Pass>(WHOLE)),
          bits_(chunks.depth * chunks.channels()), largest_(bytes_of(chunks.size.width)),
          row_(std::make_unique<uint8_t[]>(largest_ + 1)), before_(std::make_unique<uint8_t[]>(largest_ + 1)) {
        if (chunks.interlaced)
            expanded_.resize(size_t{3} * chunks.size.width);
        begin_pass();
    }

    bool full() const { return pass_ == passes_.size(); }
    // Where the next row goes with its filter before it, and how many bytes that takes.
    uint8_t *target() { return row_.get(); }
    size_t bytes() const { return bytes_ + 1; }
    // The row is in its place.
    void add() {
        if (!unfilter(row_[0], row_.get() + 1, before_.get() + 1, bytes_, std::max<size_t>(1, bits_ / 8)))
            fail_damaged(options_, "a row has an unknown filter");
        write(row_.get() + 1);
        std::swap(row_, before_);
        advance();
    }
    // What is missing has the sample 0 everywhere.
    void add_rest() {
        std::fill_n(row_.get(), largest_ + 1, uint8_t{0});
        for (; !full(); advance())
            write(row_.get() + 1);
    }

  private:
    size_t bytes_of(uint32_t columns) const { return (size_t{columns} * bits_ + 7) / 8; }

    void write(const uint8_t *samples) {
        const Pass &pass = passes_[pass_];
        uint8_t *target = rgb_ + 3 * (size_t{y_} * chunks_.size.width + pass.first_column);
        if (pass.column_step == 1)
            return samples_.expand(samples, columns_, target);
        samples_.expand(samples, columns_, expanded_.data());
        for (uint32_t column = 0; column < columns_; ++column, target += 3 * pass.column_step)
            std::copy_n(expanded_.data() + 3 * size_t{column}, 3, target);
    }

    void advance() {
        y_ += passes_[pass_].row_step;
        if (y_ >= chunks_.size.height) {
            ++pass_;
            begin_pass();
        }
    }

    // Passes that have no pixel in a small picture are left out.
    void begin_pass() {
        for (; !full(); ++pass_) {
            const Pass &pass = passes_[pass_];
            if (pass.first_row >= chunks_.size.height || pass.first_column >= chunks_.size.width)
                continue;
            y_ = pass.first_row;
            columns_ = (chunks_.size.width - pass.first_column + pass.column_step - 1) / pass.column_step;
            bytes_ = bytes_of(columns_);
            std::fill_n(before_.get(), bytes_ + 1, uint8_t{0});
            return;
        }
    }

    const PngChunks &chunks_;
    const PictureOptions &options_;
    uint8_t *rgb_;
    Samples samples_;
    std::span<const Pass> passes_;
    size_t bits_; // of a pixel
    size_t largest_;
    std::unique_ptr<uint8_t[]> row_, before_; // the filter and the samples of two rows
    std::vector<uint8_t> expanded_;           // (columns, 3)
    size_t pass_ = 0, bytes_ = 0;
    uint32_t y_ = 0, columns_ = 0;
};

// Unpacks rows until all are there. A stream that ends behind a row leaves the rest black, as in Pillow; one that ends
// within a row is damage. Returns whether the rows are complete after this piece.
bool unpack_piece(Bytes piece, Inflater &inflater, size_t &filled, PngRows &rows, const PictureOptions &options,
                  PixelMeter &meter) {
    z_stream &stream = inflater.stream();
    stream.next_in = const_cast<Bytef *>(piece.data());
    stream.avail_in = static_cast<uInt>(piece.size());
    while (stream.avail_in > 0) {
        const size_t wanted = std::min<size_t>(rows.bytes() - filled, size_t{1} << 30);
        stream.next_out = rows.target() + filled;
        stream.avail_out = static_cast<uInt>(wanted);
        const int result = inflate(&stream, Z_NO_FLUSH);
        if (result < 0)
            fail_damaged(options, "its pixels cannot be unpacked");
        filled += wanted - stream.avail_out;
        if (filled < rows.bytes()) {
            if (stream.avail_out > 0)
                return false;
            continue;
        }
        meter.add(4 * rows.bytes());
        rows.add();
        filled = 0;
        if (!rows.full() && result == Z_STREAM_END)
            rows.add_rest();
        if (rows.full())
            return true;
    }
    return false;
}

} // namespace

PictureHeader inspect_png(Bytes bytes, const PictureOptions &options) {
    PictureHeader header{.kind = V2E_PICTURE_PNG};
    const std::optional<PngChunks> chunks = read_chunks(bytes, options);
    if (!chunks)
        return header;
    header.readable = true;
    header.size = chunks->size;
    if (!options.strict)
        header.orientation = orientation_of({chunks->has_exif, chunks->exif, chunks->xmp});
    return header;
}

void decode_png(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter) {
    const PngChunks chunks = *read_chunks(bytes, options);
    PngRows rows(chunks, options, rgb);
    Inflater inflater;
    size_t filled = 0; // bytes of the row that is being unpacked
    for (size_t number = 0; number < chunks.pixels.size(); ++number) {
        for (Bytes piece = chunks.pixels[number]; !piece.empty();) {
            const size_t size = std::min(PIECE, piece.size());
            meter.add(size);
            if (unpack_piece(piece.first(size), inflater, filled, rows, options, meter)) {
                if (chunks.cut && number + 1 < chunks.pixels.size())
                    break;
                return;
            }
            piece = piece.subspan(size);
        }
    }
    fail_damaged(options, "the file ends too early");
}

} // namespace v2e
