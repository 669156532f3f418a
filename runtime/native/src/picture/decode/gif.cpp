#include "picture/decode/gif.hpp"

#include "picture/decode/palette.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

namespace v2e {
namespace {

constexpr size_t CODES = 4096; // of a table: codes have 12 bits at most

// A stored table of colours.
struct ColourTable {
    bool given = false;
    bool greys = true; // every colour is a grey as bright as its place: Pillow takes that for no table at all
    Bytes colours;
};

struct Frame {
    uint32_t left = 0, top = 0, width = 0, height = 0;
    bool interlaced = false;
    ColourTable table;
    uint32_t code_bits = 0;             // of the pixels' values
    std::optional<uint8_t> transparent; // the place in the table that is shown through
    size_t data = 0;                    // place of the first block
};

struct Screen {
    uint32_t width = 0, height = 0;
    ColourTable table;
};

ColourTable read_table(ByteReader &reader, uint8_t flags, const PictureOptions &options) {
    ColourTable table;
    if ((flags & 0x80) == 0)
        return table;
    table.given = true;
    table.colours = reader.take_some(size_t{3} << ((flags & 7) + 1));
    if (table.colours.size() % 3 != 0)
        fail_damaged(options, "the file ends within a table of colours");
    for (size_t place = 0; place < table.colours.size(); ++place)
        table.greys = table.greys && table.colours[place] == place / 3;
    return table;
}

// The next block; empty at the end of a row of blocks, and where the file ends.
Bytes take_block(ByteReader &reader) {
    return reader.left() == 0 ? Bytes{} : reader.take_some(reader.take_byte());
}

void skip_blocks(ByteReader &reader) {
    while (!take_block(reader).empty()) {
    }
}

// Pillow goes on to skip blocks where a row of them has ended already; what follows is read alike.
void read_extension(ByteReader &reader, Frame &frame, bool first, const PictureOptions &options) {
    constexpr uint8_t CONTROL = 0xf9, COMMENT = 0xfe, APPLICATION = 0xff;
    const uint8_t label = reader.take_byte();
    const Bytes block = take_block(reader);
    if (label == CONTROL && !block.empty()) {
        if (block.size() < 3 || ((block[0] & 1) != 0 && block.size() < 4))
            fail_damaged(options, "a control block is too short");
        if ((block[0] & 1) != 0)
            frame.transparent = block[3];
    }
    if (label == APPLICATION && first && has_text(block, 0, "NETSCAPE2.0"))
        take_block(reader);
    if (label != COMMENT || !block.empty())
        skip_blocks(reader);
}

// The next frame; nothing at the end of the file.
std::optional<Frame> read_frame(ByteReader &reader, bool first, const PictureOptions &options) {
    Frame frame;
    while (reader.left() > 0) {
        const uint8_t mark = reader.take_byte();
        if (mark == ';')
            break;
        if (mark == '!')
            read_extension(reader, frame, first, options);
        if (mark != ',')
            continue; // bytes between two blocks mean nothing
        const Bytes place = reader.take(9);
        frame.left = low16(place.data());
        frame.top = low16(place.data() + 2);
        frame.width = low16(place.data() + 4);
        frame.height = low16(place.data() + 6);
        frame.interlaced = (place[8] & 0x40) != 0;
        frame.table = read_table(reader, place[8], options);
        frame.code_bits = reader.take_byte();
        frame.data = reader.place();
        return frame;
    }
    return std::nullopt;
}

Screen read_screen(ByteReader &reader, const PictureOptions &options) {
    const Bytes bytes = reader.take(13);
    Screen screen;
    screen.width = low16(bytes.data() + 6);
    screen.height = low16(bytes.data() + 8);
    screen.table = read_table(reader, bytes[10], options);
    return screen;
}

// The screen and its first frame; the screen grows where the frame is larger.
std::pair<Screen, Frame> read_first(ByteReader &reader, const PictureOptions &options) {
    Screen screen = read_screen(reader, options);
    const std::optional<Frame> frame = read_frame(reader, true, options);
    if (!frame)
        fail_damaged(options, "there is no picture in the file");
    screen.width = std::max(screen.width, frame->left + frame->width);
    screen.height = std::max(screen.height, frame->top + frame->height);
    return {screen, *frame};
}

// The codes of a frame's pixels, least significant bit first, in blocks.
class CodeReader {
  public:
    CodeReader(ByteReader &reader, const PictureOptions &options) : reader_(reader), options_(options) {}

    uint32_t take(uint32_t bits) {
        while (count_ < bits) {
            while (block_.empty()) {
                const size_t size = reader_.take_byte();
                if (size > reader_.left())
                    fail_damaged(options_, "the file ends too early");
                block_ = reader_.take(size);
            }
            held_ |= static_cast<uint32_t>(block_[0]) << count_;
            block_ = block_.subspan(1);
            count_ += 8;
        }
        const uint32_t code = held_ & ((1u << bits) - 1);
        held_ >>= bits;
        count_ -= bits;
        return code;
    }

  private:
    ByteReader &reader_;
    const PictureOptions &options_;
    Bytes block_;
    uint32_t held_ = 0, count_ = 0;
};

// Where the pixels of a frame go, one after the other.
class FrameRows {
  public:
    FrameRows(const Frame &frame, uint8_t *indices, size_t stride)
        : frame_(frame), indices_(indices), stride_(stride), step_(frame.interlaced ? 8 : 1) {}

    bool full() const { return row_ >= frame_.height; }
    void add(uint8_t index) {
        indices_[(frame_.top + row_) * stride_ + frame_.left + column_] = index;
        if (++column_ == frame_.width)
            next_row();
    }

  private:
    // Interlaced rows come in four passes: every eighth, the eighths between, the fourths, the second ones.
    void next_row() {
        column_ = 0;
        row_ += step_;
        while (frame_.interlaced && row_ >= frame_.height && pass_ < 3) {
            ++pass_;
            row_ = 8u >> pass_;
            step_ = 16u >> pass_;
        }
    }

    const Frame &frame_;
    uint8_t *indices_;
    size_t stride_;
    uint32_t step_, row_ = 0, column_ = 0, pass_ = 0;
};

// Unpacks a frame (LZW with codes that grow) into indices (height, width) of the screen.
class Unpacker {
  public:
    Unpacker(const Frame &frame, const PictureOptions &options)
        : clear_(1u << frame.code_bits), end_(clear_ + 1), first_bits_(frame.code_bits + 1), options_(options) {
        reset();
    }

    void run(CodeReader codes, FrameRows rows, PixelMeter &meter) {
        while (!rows.full()) {
            const uint32_t code = codes.take(bits_);
            meter.add(8);
            if (code == clear_)
                reset();
            else if (code == end_)
                fail_damaged(options_, "the pixels end too early");
            else
                put(expand(code), rows, meter);
        }
    }

  private:
    static constexpr uint32_t NONE = ~0u;

    void reset() {
        next_ = clear_ + 2;
        bits_ = first_bits_;
        last_ = NONE;
    }

    // Writes the string of a code to the end of buffer_ and learns the next one; returns its place.
    size_t expand(uint32_t code) {
        if (code > (last_ == NONE ? clear_ : next_))
            fail_damaged(options_, "its pixels cannot be unpacked");
        size_t place = buffer_.size();
        const auto push = [&](uint8_t index) {
            if (place == 0)
                fail_damaged(options_, "its pixels cannot be unpacked");
            buffer_[--place] = index;
        };
        if (last_ == NONE) {
            first_ = static_cast<uint8_t>(code);
            last_ = code;
            push(first_);
            return place;
        }
        uint32_t rest = code;
        if (code == next_) { // the string before, and its first index again
            push(first_);
            rest = last_;
        }
        while (rest >= clear_) {
            if (rest >= CODES)
                fail_damaged(options_, "its pixels cannot be unpacked");
            push(index_[rest]);
            rest = prefix_[rest];
        }
        first_ = static_cast<uint8_t>(rest);
        push(first_);
        learn();
        last_ = code;
        return place;
    }

    void learn() {
        if (next_ >= CODES)
            return;
        index_[next_] = first_;
        prefix_[next_] = static_cast<uint16_t>(last_);
        if (next_ == (1u << bits_) - 1 && bits_ < 12)
            ++bits_;
        ++next_;
    }

    void put(size_t place, FrameRows &rows, PixelMeter &meter) {
        meter.add(buffer_.size() - place);
        for (; place < buffer_.size() && !rows.full(); ++place)
            rows.add(buffer_[place]);
    }

    uint32_t clear_, end_, first_bits_;
    uint32_t next_ = 0, bits_ = 0, last_ = NONE;
    uint8_t first_ = 0; // index of the string before
    const PictureOptions &options_;
    std::array<uint8_t, CODES> index_{};
    std::array<uint16_t, CODES> prefix_{};
    std::array<uint8_t, CODES + 1> buffer_{};
};

} // namespace

PictureHeader inspect_gif(Bytes bytes, const PictureOptions &options) {
    PictureHeader header{.kind = V2E_PICTURE_GIF};
    ByteReader reader(bytes, options);
    const auto [screen, first] = read_first(reader, options);
    check_size(screen.width, screen.height, options);
    // Pillow shows such a frame by the screen's colours, or by greys, according to what was asked of it before.
    if (first.table.given && first.table.greys && screen.table.given && !screen.table.greys)
        return header;
    header.readable = true;
    header.size = {screen.width, screen.height};
    skip_blocks(reader);
    while (read_frame(reader, false, options)) {
        ++header.frames;
        skip_blocks(reader);
    }
    return header;
}

void decode_gif(Bytes bytes, const PictureOptions &options, uint8_t *rgb, PixelMeter &meter) {
    ByteReader reader(bytes, options);
    const auto [screen, frame] = read_first(reader, options);
    if (frame.width == 0 || frame.height == 0 || frame.code_bits > 8)
        fail_damaged(options, "its first frame is empty or has too many colours");
    std::vector<uint8_t> indices(size_t{screen.width} * screen.height, frame.transparent.value_or(0));
    Unpacker(frame, options).run(CodeReader(reader, options), FrameRows(frame, indices.data(), screen.width), meter);

    Palette palette;
    const ColourTable &table = frame.table.given ? frame.table : screen.table;
    if (!table.given || table.greys)
        palette.set_greys();
    else
        for (size_t colour = 0; 3 * colour < table.colours.size(); ++colour)
            palette.set(colour, table.colours[3 * colour], table.colours[3 * colour + 1],
                        table.colours[3 * colour + 2]);
    for (uint32_t row = 0; row < screen.height; ++row) {
        meter.add(4 * size_t{screen.width});
        palette.expand(indices.data() + size_t{row} * screen.width, screen.width, 8,
                       rgb + size_t{3} * row * screen.width);
    }
}

} // namespace v2e
