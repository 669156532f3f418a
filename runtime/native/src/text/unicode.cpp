#include "text/unicode.hpp"

#include "text/unicode_tables.hpp"

#include <algorithm>
#include <unordered_map>

namespace v2e {
namespace {

// Hangul's syllables are computed (Unicode 15, section 3.12).
constexpr char32_t SYLLABLES = 0xac00, INITIALS = 0x1100, MEDIALS = 0x1161, FINALS = 0x11a7;
constexpr char32_t INITIAL_COUNT = 19, MEDIAL_COUNT = 21, FINAL_COUNT = 28;
constexpr char32_t SYLLABLE_COUNT = INITIAL_COUNT * MEDIAL_COUNT * FINAL_COUNT;

bool lies_in(char32_t code, char32_t first, char32_t count) {
    return code >= first && code - first < count;
}

// The places of the decompositions, which the table has by their lengths.
const std::vector<uint32_t> &decomposition_starts() {
    static const std::vector<uint32_t> starts = [] {
        std::vector<uint32_t> made;
        made.reserve(DECOMPOSITIONS.size());
        uint32_t start = 0;
        for (const uint32_t entry : DECOMPOSITIONS) {
            made.push_back(start);
            start += entry & 0xff;
        }
        return made;
    }();
    return starts;
}

uint8_t combining_class(char32_t code) {
    const auto run = std::lower_bound(MARK_RUNS.begin(), MARK_RUNS.end(), code,
                                      [](const MarkRun &mark, char32_t wanted) { return mark.last < wanted; });
    return run != MARK_RUNS.end() && run->first <= code ? static_cast<uint8_t>(run->combining_class) : 0;
}

// A character of a text that is being normalised.
struct Decomposed {
    char32_t code;
    uint8_t combining_class;
};

void decompose(char32_t code, std::vector<Decomposed> &result) {
    if (lies_in(code, SYLLABLES, SYLLABLE_COUNT)) {
        const char32_t syllable = code - SYLLABLES, last = syllable % FINAL_COUNT;
        result.push_back({INITIALS + syllable / (MEDIAL_COUNT * FINAL_COUNT), 0});
        result.push_back({MEDIALS + syllable % (MEDIAL_COUNT * FINAL_COUNT) / FINAL_COUNT, 0});
        if (last != 0)
            result.push_back({FINALS + last, 0});
        return;
    }
    const auto found = std::lower_bound(DECOMPOSITIONS.begin(), DECOMPOSITIONS.end(), code,
                                        [](uint32_t entry, char32_t wanted) { return entry >> 8 < wanted; });
    if (found == DECOMPOSITIONS.end() || *found >> 8 != code) {
        result.push_back({code, combining_class(code)});
        return;
    }
    const uint32_t start = decomposition_starts()[static_cast<size_t>(found - DECOMPOSITIONS.begin())];
    for (const char32_t part : DECOMPOSED.subspan(start, *found & 0xff))
        result.push_back({part, combining_class(part)});
}

// 0: the two are not composed.
char32_t compose(char32_t first, char32_t second) {
    if (lies_in(first, INITIALS, INITIAL_COUNT) && lies_in(second, MEDIALS, MEDIAL_COUNT))
        return SYLLABLES + ((first - INITIALS) * MEDIAL_COUNT + (second - MEDIALS)) * FINAL_COUNT;
    if (lies_in(first, SYLLABLES, SYLLABLE_COUNT) && (first - SYLLABLES) % FINAL_COUNT == 0 && second != FINALS &&
        lies_in(second, FINALS, FINAL_COUNT))
        return first + (second - FINALS);
    const auto before = [](const Composition &entry, const Composition &wanted) {
        return entry.first != wanted.first ? entry.first < wanted.first : entry.second < wanted.second;
    };
    const Composition wanted{first, second, 0};
    const auto found = std::lower_bound(COMPOSITIONS.begin(), COMPOSITIONS.end(), wanted, before);
    return found != COMPOSITIONS.end() && found->first == first && found->second == second ? found->composed : 0;
}

// Marks behind a character stand in the order of their classes.
void order_marks(std::vector<Decomposed> &text) {
    for (auto begin = text.begin(); begin != text.end();) {
        begin = std::find_if(begin, text.end(), [](const Decomposed &one) { return one.combining_class != 0; });
        const auto end =
            std::find_if(begin, text.end(), [](const Decomposed &one) { return one.combining_class == 0; });
        std::stable_sort(
            begin, end, [](const Decomposed &a, const Decomposed &b) { return a.combining_class < b.combining_class; });
        begin = end;
    }
}

// Joins each character to the last starter before it where nothing between them blocks it.
void compose_in_place(std::vector<Decomposed> &text) {
    constexpr size_t NONE = SIZE_MAX;
    size_t starter = NONE, size = 0;
    for (const Decomposed one : text) {
        if (starter != NONE) {
            const bool adjacent = size == starter + 1;
            if (adjacent || text[size - 1].combining_class < one.combining_class) {
                if (const char32_t composed = compose(text[starter].code, one.code); composed != 0) {
                    text[starter].code = composed;
                    continue;
                }
            }
        }
        if (one.combining_class == 0)
            starter = size;
        text[size++] = one;
    }
    text.resize(size);
}

} // namespace

void append_character(char32_t code, std::string &text) {
    const auto append = [&](char32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) {
        append(code);
        return;
    }
    if (code < 0x800) {
        append(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            append(0xe0 | code >> 12);
        } else {
            append(0xf0 | code >> 18);
            append(0x80 | (code >> 12 & 0x3f));
        }
        append(0x80 | (code >> 6 & 0x3f));
    }
    append(0x80 | (code & 0x3f));
}

PropertyTable::PropertyTable() {
    constexpr size_t BLOCK = size_t{1} << BLOCK_BITS;
    std::unordered_map<std::string, uint16_t> known;
    size_t run = 0;
    for (size_t block = 0; block < blocks_.size(); ++block) {
        std::string bits;
        for (size_t code = block * BLOCK; code < (block + 1) * BLOCK; ++code) {
            while (run + 1 < PROPERTY_RUNS.size() && PROPERTY_RUNS[run + 1] >> 8 <= code)
                ++run;
            bits += static_cast<char>(PROPERTY_RUNS[run] & 0xff);
        }
        const auto [place, added] = known.try_emplace(bits, static_cast<uint16_t>(known.size()));
        if (added)
            bits_.insert(bits_.end(), bits.begin(), bits.end());
        blocks_[block] = place->second;
    }
}

const PropertyTable &character_properties() {
    static const PropertyTable table;
    return table;
}

std::string_view normalize_nfc(std::string_view text, std::string &buffer) {
    const PropertyTable &properties = character_properties();
    std::vector<Decomposed> part;
    size_t copied = 0; // bytes of the text that are in the buffer
    size_t stable = 0; // where the last character begins that stays as it is if only stable ones follow
    bool copies = false;
    for (size_t position = 0; position < text.size();) {
        if (static_cast<unsigned char>(text[position]) < 0x80) {
            stable = position++;
            continue;
        }
        const Character character = character_at(text, position);
        if ((properties[character.code] & PROPERTY_UNSTABLE) == 0) {
            stable = position;
            position += character.size;
            continue;
        }
        // From the stable character before it to the next one behind it the text is normalised.
        if (!copies)
            buffer.clear();
        copies = true;
        buffer.append(text.substr(copied, stable - copied));
        part.clear();
        while (stable < text.size()) {
            const Character next = character_at(text, stable);
            if (stable > position && (properties[next.code] & PROPERTY_UNSTABLE) == 0)
                break;
            decompose(next.code, part);
            stable += next.size;
        }
        order_marks(part);
        compose_in_place(part);
        for (const Decomposed &one : part)
            append_character(one.code, buffer);
        copied = position = stable;
    }
    if (!copies)
        return text;
    buffer.append(text.substr(copied));
    return buffer;
}

} // namespace v2e
