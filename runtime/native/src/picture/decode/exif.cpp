#include "picture/decode/exif.hpp"

#include <optional>
#include <string_view>

namespace v2e {
namespace {

constexpr uint16_t ORIENTATION = 274; // the tag's number (TIFF 6.0, section 8)
constexpr std::string_view EXIF_MARK{"Exif\0\0", 6};

// Bytes of one value of a TIFF type; 0: a type that is not known.
size_t unit_of(uint16_t type) {
    switch (type) {
    case 1: // byte
    case 2: // text
    case 6: // signed byte
    case 7: // undefined
        return 1;
    case 3: // short
    case 8: // signed short
        return 2;
    case 4:  // long
    case 9:  // signed long
    case 11: // float
    case 13: // directory
        return 4;
    case 5:  // rational
    case 10: // signed rational
    case 12: // double
    case 16: // long of 8 bytes
        return 8;
    default:
        return 0;
    }
}

// One way round of bytes in numbers.
struct Order {
    bool high_first;

    uint16_t read16(const uint8_t *bytes) const { return high_first ? high16(bytes) : low16(bytes); }
    uint32_t read32(const uint8_t *bytes) const { return high_first ? high32(bytes) : low32(bytes); }
};

// The first value of a tag's data; nothing for types that are no whole numbers.
std::optional<int64_t> whole_number(uint16_t type, const uint8_t *data, Order order) {
    switch (type) {
    case 3:
        return order.read16(data);
    case 4:
    case 13:
        return order.read32(data);
    case 6:
        return static_cast<int8_t>(data[0]);
    case 8:
        return static_cast<int16_t>(order.read16(data));
    case 9:
        return static_cast<int32_t>(order.read32(data));
    case 16: {
        const uint64_t first = order.read32(data);
        const uint64_t second = order.read32(data + 4);
        return static_cast<int64_t>(order.high_first ? first << 32 | second : second << 32 | first);
    }
    default:
        return std::nullopt;
    }
}

// What a directory says, as far as it can be read.
struct Finding {
    bool readable = true;    // whether it begins as a TIFF file does
    bool has_tag = false;    // whether the tag is there, of whatever type
    int64_t orientation = 0; // its value; 0 when it is no whole number
};

// Reads one directory. A tag that lies beyond the data ends the reading, as in Pillow: what came before it counts.
Finding read_directory(Bytes exif, Order order) {
    Finding finding;
    const size_t begin = order.read32(exif.data() + 4);
    if (begin > exif.size() || exif.size() - begin < 2)
        return finding;
    const size_t count = order.read16(exif.data() + begin);
    uint64_t total = 0; // bytes of tags that do not fit into the directory
    for (size_t tag = 0, place = begin + 2; tag < count && exif.size() - place >= 12; ++tag, place += 12) {
        const uint8_t *entry = exif.data() + place;
        const uint16_t type = order.read16(entry + 2);
        const uint64_t size = static_cast<uint64_t>(order.read32(entry + 4)) * unit_of(type);
        const uint8_t *data = entry + 8;
        if (size == 0)
            continue;
        if (size > 4) {
            total += size;
            if (total > exif.size())
                continue;
            const size_t offset = order.read32(data);
            if (offset > exif.size() || exif.size() - offset < size)
                return finding;
            data = exif.data() + offset;
        }
        if (order.read16(entry) != ORIENTATION || finding.has_tag)
            continue;
        finding.has_tag = true;
        finding.orientation = whole_number(type, data, order).value_or(0);
    }
    return finding;
}

Finding read_exif(Bytes exif) {
    for (int mark = 0; mark < 2 && has_text(exif, 0, EXIF_MARK); ++mark)
        exif = exif.subspan(EXIF_MARK.size());
    if (exif.empty())
        return {};
    using namespace std::string_view_literals;
    // Some programs turn the number after the byte order around.
    for (const auto &[begin, high_first] :
         {std::pair{"II*\0"sv, false}, {"II\0*"sv, false}, {"MM\0*"sv, true}, {"MM*\0"sv, true}})
        if (has_text(exif, 0, begin) && exif.size() >= 8)
            return read_directory(exif, Order{high_first});
    return Finding{.readable = false};
}

// The digit of tiff:Orientation="6" or <tiff:Orientation>6; 0 when there is none.
int64_t read_xmp(Bytes xmp) {
    const std::string_view text(reinterpret_cast<const char *>(xmp.data()), xmp.size());
    constexpr std::string_view TAG = "tiff:Orientation";
    for (size_t place = text.find(TAG); place != text.npos; place = text.find(TAG, place + 1)) {
        std::string_view rest = text.substr(place + TAG.size());
        if (rest.starts_with("=\""))
            rest.remove_prefix(2);
        else if (rest.starts_with(">"))
            rest.remove_prefix(1);
        else
            continue;
        if (!rest.empty() && rest.front() >= '0' && rest.front() <= '9')
            return rest.front() - '0';
    }
    return 0;
}

} // namespace

uint32_t orientation_of(const OrientationNotes &notes) {
    const Finding finding = notes.has_exif ? read_exif(notes.exif) : Finding{};
    if (!finding.readable)
        return 1;
    const int64_t orientation = finding.has_tag ? finding.orientation : read_xmp(notes.xmp);
    return orientation >= 1 && orientation <= 8 ? static_cast<uint32_t>(orientation) : 1;
}

} // namespace v2e
