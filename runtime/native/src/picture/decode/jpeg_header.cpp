// Walks over the segments of a JPEG file (ITU-T T.81, annex B) as Pillow does, up to the first scan.
#include "picture/decode/exif.hpp"
#include "picture/decode/jpeg.hpp"

#include <vector>

namespace v2e {
namespace {

// What the segments before the first scan say.
struct Segments {
    uint8_t frame_marker = 0; // of the frame header; 0: there was none
    uint32_t bits = 0, components = 0;
    Size size{0, 0};
    std::vector<uint8_t> exif; // of all segments, one after the other
    bool has_exif = false;
    Bytes xmp;
};

bool is_frame(uint8_t marker) {
    return (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) || marker == 0xde;
}

// Whether a segment with a length follows the marker.
bool has_length(uint8_t marker) {
    return is_frame(marker) || marker == 0xc4 || marker == 0xcc || (marker >= 0xda && marker <= 0xdd) ||
           marker == 0xdf || (marker >= 0xe0 && marker <= 0xef) || marker == 0xfe;
}

void check_tables(Bytes segment, const PictureOptions &options) {
    for (size_t place = 0; place < segment.size();) {
        const size_t table = segment[place] >= 16 ? 129 : 65;
        if (segment.size() - place < table)
            fail_damaged(options, "a table of its quantisation is too short");
        place += table;
    }
}

void read_frame_header(Bytes segment, uint8_t marker, Segments &found, const PictureOptions &options) {
    if (segment.size() < 6)
        fail_damaged(options, "its frame header is too short");
    found.frame_marker = marker;
    found.bits = segment[0];
    found.size = {high16(segment.data() + 3), high16(segment.data() + 1)};
    found.components = segment[5];
}

void read_notes(Bytes segment, Segments &found) {
    constexpr std::string_view EXIF{"Exif\0\0", 6}, XMP{"http://ns.adobe.com/xap/1.0/\0", 29};
    if (has_text(segment, 0, EXIF)) {
        const Bytes added = found.has_exif ? segment.subspan(EXIF.size()) : segment;
        found.exif.insert(found.exif.end(), added.begin(), added.end());
        found.has_exif = true;
    } else if (has_text(segment, 0, XMP)) {
        found.xmp = segment.subspan(XMP.size());
    }
}

void read_segment(ByteReader &reader, uint8_t marker, Segments &found, const PictureOptions &options) {
    const uint16_t length = high16(reader.take(2).data());
    const Bytes segment = reader.take(length < 2 ? 0 : length - 2u);
    if (is_frame(marker))
        read_frame_header(segment, marker, found, options);
    else if (marker == 0xdb)
        check_tables(segment, options);
    else if (marker == 0xe1)
        read_notes(segment, found);
}

Segments read_segments(Bytes bytes, const PictureOptions &options) {
    constexpr uint8_t SCAN = 0xda;
    Segments found;
    ByteReader reader(bytes, options);
    reader.take(3); // the start of the picture, and the first byte of the next marker
    bool mark = true;
    while (true) {
        if (!mark) { // bytes between two segments mean nothing
            mark = reader.take_byte() == 0xff;
            continue;
        }
        const uint8_t marker = reader.take_byte();
        if (marker == 0xff)
            continue; // padding
        mark = false;
        if (marker == 0)
            continue;
        if (marker < 0xc0)
            fail_damaged(options, "there is no marker where one must be");
        if (has_length(marker))
            read_segment(reader, marker, found, options);
        if (marker == SCAN)
            return found;
    }
}

} // namespace

PictureHeader inspect_jpeg(Bytes bytes, const PictureOptions &options) {
    PictureHeader header{.kind = V2E_PICTURE_JPEG};
    const Segments found = read_segments(bytes, options);
    if (found.frame_marker == 0)
        fail_damaged(options, "there is no frame header before its first scan");
    check_size(found.size.width, found.size.height, options);
    // Baseline, extended and progressive, with Huffman codes: what Pillow reads besides is rare, or is refused by it.
    const bool known_process = found.frame_marker >= 0xc0 && found.frame_marker <= 0xc2;
    const bool known_colours = found.components == 1 || found.components == 3 || found.components == 4;
    if (!known_process || found.bits != 8 || !known_colours)
        return header;
    header.readable = true;
    header.size = found.size;
    if (!options.strict)
        header.orientation = orientation_of({found.has_exif, found.exif, found.xmp});
    return header;
}

} // namespace v2e
