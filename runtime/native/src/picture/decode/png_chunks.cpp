#include "picture/decode/png_chunks.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

#include <zlib.h>

namespace v2e {
namespace {

using namespace std::string_view_literals;

constexpr size_t LARGEST_TEXT = size_t{1} << 20;   // bytes of an unpacked text or profile
constexpr size_t LARGEST_TEXTS = size_t{64} << 20; // of all texts together
constexpr size_t SMALLEST_CHUNK = 12;              // length, name, checksum

// Texts under these names mean something else to Pillow, which keeps all that it knows of a picture in one table.
constexpr std::string_view RESERVED[] = {
    "exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency", "interlace", "bbox", "default_image"};

struct Chunk {
    std::string_view name;
    size_t length; // as the file says
    Bytes content; // shorter where the file ends
    Bytes checksum;

    bool complete() const { return content.size() == length; }
};

// Two parts of a chunk with a byte 0 between them; nothing when there is none.
std::optional<std::pair<Bytes, Bytes>> split(Bytes bytes) {
    const auto zero = std::find(bytes.begin(), bytes.end(), uint8_t{0});
    if (zero == bytes.end())
        return std::nullopt;
    const size_t place = static_cast<size_t>(zero - bytes.begin());
    return std::pair(bytes.first(place), bytes.subspan(place + 1));
}

std::string_view text_of(Bytes bytes) {
    return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

bool is_name(std::string_view name) {
    return std::all_of(name.begin(), name.end(), [](char letter) {
        return (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z') ||
               (letter >= '0' && letter <= '9') || letter == '_';
    });
}

class ChunkReader {
  public:
    ChunkReader(Bytes bytes, const PictureOptions &options) : bytes_(bytes), options_(options) {}

    std::optional<PngChunks> read() {
        bool pixels = false;   // whether they have begun
        bool together = false; // whether the chunk before was one of pixels
        while (const std::optional<Chunk> chunk = next(pixels)) {
            if (chunk->name == "IEND"sv)
                break;
            if (chunk->name == "IDAT"sv) {
                if (!pixels || together)
                    add_pixels(*chunk);
                else if (!chunk->complete())
                    fail("the file ends too early");
                together = pixels ? together : true;
                pixels = true;
                continue;
            }
            together = false;
            if (!chunk->complete())
                fail("the file ends too early");
            if (!read_chunk(*chunk, pixels))
                return std::nullopt;
            if (!pixels)
                check(*chunk);
        }
        if (!has_header_ || !pixels)
            fail("it has no pixels");
        return std::exchange(found_, {});
    }

  private:
    [[noreturn]] void fail(const char *reason) const { fail_damaged(options_, reason); }

    // The next chunk. Once there are pixels, nothing where no chunk begins; before them that is damage.
    std::optional<Chunk> next(bool pixels) {
        const size_t left = bytes_.size() - place_;
        const std::string_view name = left < 8 ? ""sv : text_of(bytes_.subspan(place_ + 4, 4));
        if (left < 8 || !is_name(name)) {
            if (pixels)
                return std::nullopt;
            fail(left < 8 ? "the file ends too early" : "a chunk has no name");
        }
        Chunk chunk{name, high32(bytes_.data() + place_), {}, {}};
        const size_t begin = place_ + 8;
        const size_t stored = std::min(chunk.length, bytes_.size() - begin);
        chunk.content = bytes_.subspan(begin, stored);
        const size_t sum = std::min(SMALLEST_CHUNK - 8, bytes_.size() - begin - stored);
        chunk.checksum = bytes_.subspan(begin + stored, sum);
        place_ = begin + stored + sum;
        return chunk;
    }

    void check(const Chunk &chunk) const {
        uLong sum = crc32(0, reinterpret_cast<const Bytef *>(chunk.name.data()), 4);
        sum = crc32_z(sum, chunk.content.data(), chunk.content.size());
        if (chunk.checksum.size() < 4 || sum != high32(chunk.checksum.data()))
            fail("the checksum of a chunk is wrong");
    }

    void add_pixels(const Chunk &chunk) {
        found_.pixels.push_back(chunk.content);
        found_.cut = !chunk.complete();
    }

    // False: the variant is not read here.
    bool read_chunk(const Chunk &chunk, bool pixels) {
        if (chunk.name == "IHDR"sv)
            return read_header(chunk.content, pixels);
        if (chunk.name == "PLTE"sv)
            return read_palette(chunk.content, pixels);
        if (chunk.name == "acTL"sv || chunk.name == "fcTL"sv || chunk.name == "fdAT"sv || chunk.name == "DDAT"sv)
            return false; // an animation, or what Pillow takes for pixels
        if (chunk.name == "tEXt"sv || chunk.name == "zTXt"sv)
            return read_text(chunk.content, chunk.name == "zTXt"sv);
        if (chunk.name == "iTXt"sv)
            return read_international_text(chunk.content);
        if (chunk.name == "iCCP"sv)
            check_profile(chunk.content);
        else if (chunk.name == "eXIf"sv) {
            found_.exif = chunk.content;
            found_.has_exif = true;
        } else
            check_length(chunk);
        return true;
    }

    bool read_header(Bytes content, bool pixels) {
        if (has_header_ || pixels)
            return false;
        if (content.size() < 13)
            fail("its header is too short");
        if (content[11] != 0)
            fail("its header names a filter that is not known");
        has_header_ = true;
        found_.size = {high32(content.data()), high32(content.data() + 4)};
        found_.depth = content[8];
        found_.colour = static_cast<PngChunks::Colour>(content[9]);
        found_.interlaced = content[12] != 0;
        const bool small = found_.depth == 1 || found_.depth == 2 || found_.depth == 4;
        const bool whole = found_.depth == 8 || (found_.depth == 16 && content[9] != 3);
        const bool single = content[9] == 0 || content[9] == 3;
        const bool known = single || content[9] == 2 || content[9] == 4 || content[9] == 6;
        if (!known || !(whole || (single && small)))
            fail("its header names colours that are not known");
        check_size(found_.size.width, found_.size.height, options_);
        return true;
    }

    bool read_palette(Bytes content, bool pixels) {
        if (!has_header_)
            return false;
        if (pixels || found_.colour != PngChunks::Colour::palette)
            return true;
        if (content.size() / 3 > 256)
            fail("it has more than 256 colours");
        found_.palette = content;
        return true;
    }

    bool read_text(Bytes content, bool packed) {
        const auto parts = split(content);
        const Bytes name = parts ? parts->first : content;
        Bytes text = parts ? parts->second : Bytes{};
        if (packed && !text.empty()) {
            if (text[0] != 0)
                fail("a text is packed in an unknown way");
            text = unpack(text.subspan(1)).value_or(Bytes{});
        } else {
            count_text(text.size());
        }
        return !is_reserved(text_of(name));
    }

    bool read_international_text(Bytes content) {
        const auto name = split(content);
        if (!name || name->second.size() < 2)
            return true;
        const bool packed = name->second[0] != 0;
        const bool known = name->second[1] == 0;
        const auto language = split(name->second.subspan(2));
        const auto translated = language ? split(language->second) : std::nullopt;
        if (!translated || (packed && !known))
            return true;
        Bytes text = translated->second;
        if (packed) {
            const std::optional<Bytes> unpacked = unpack(text);
            if (!unpacked)
                return true;
            text = *unpacked;
        } else {
            count_text(text.size());
        }
        if (text_of(name->first) == "XML:com.adobe.xmp"sv) {
            found_.xmp.assign(text.begin(), text.end());
            return true;
        }
        return !is_reserved(text_of(name->first));
    }

    void check_profile(Bytes content) {
        const auto parts = split(content);
        const Bytes packed = parts ? parts->second : content;
        if (packed.empty() || packed[0] != 0)
            fail("its colour profile is packed in an unknown way");
        unpack(packed.subspan(1));
    }

    void check_length(const Chunk &chunk) {
        size_t least = 0;
        if (chunk.name == "gAMA"sv)
            least = 4;
        else if (chunk.name == "cHRM"sv)
            least = 32;
        else if (chunk.name == "sRGB"sv)
            least = 1;
        else if (chunk.name == "pHYs"sv)
            least = 9;
        else if (chunk.name == "tRNS"sv && has_header_ && found_.colour == PngChunks::Colour::grey)
            least = 2;
        else if (chunk.name == "tRNS"sv && found_.colour == PngChunks::Colour::rgb)
            least = 6;
        if (chunk.length < least)
            fail("a chunk is too short");
    }

    // Unpacks a text or a profile, which lasts until the next call. Nothing for a broken one.
    std::optional<Bytes> unpack(Bytes packed) {
        if (!unpacked_)
            unpacked_ = std::make_unique<uint8_t[]>(LARGEST_TEXT);
        z_stream stream{};
        if (inflateInit(&stream) != Z_OK)
            throw std::bad_alloc();
        stream.next_in = const_cast<Bytef *>(packed.data());
        stream.avail_in = static_cast<uInt>(packed.size());
        stream.next_out = unpacked_.get();
        stream.avail_out = LARGEST_TEXT;
        const int result = inflate(&stream, Z_SYNC_FLUSH);
        const bool more = stream.avail_in > 0 && result != Z_STREAM_END;
        const size_t size = LARGEST_TEXT - stream.avail_out;
        inflateEnd(&stream);
        count_text(size);
        if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
            return std::nullopt;
        if (more)
            fail("a text or a colour profile in it is too long");
        return Bytes(unpacked_.get(), size);
    }

    void count_text(size_t bytes) {
        texts_ += bytes;
        if (texts_ > LARGEST_TEXTS)
            fail("the texts in it are too long");
    }

    static bool is_reserved(std::string_view name) {
        return std::find(std::begin(RESERVED), std::end(RESERVED), name) != std::end(RESERVED);
    }

    Bytes bytes_;
    const PictureOptions &options_;
    size_t place_ = 8; // behind the signature
    bool has_header_ = false;
    size_t texts_ = 0;                    // bytes
    std::unique_ptr<uint8_t[]> unpacked_; // LARGEST_TEXT bytes
    PngChunks found_;
};

} // namespace

uint32_t PngChunks::channels() const {
    switch (colour) {
    case Colour::grey:
    case Colour::palette:
        return 1;
    case Colour::grey_alpha:
        return 2;
    case Colour::rgb:
        return 3;
    default:
        return 4;
    }
}

std::optional<PngChunks> read_chunks(Bytes bytes, const PictureOptions &options) {
    return ChunkReader(bytes, options).read();
}

} // namespace v2e
