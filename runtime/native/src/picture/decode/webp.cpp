#include "picture/decode/webp.hpp"

#include "base/error.hpp"
#include "picture/decode/exif.hpp"

#include <algorithm>
#include <memory>
#include <new>

#include <webp/decode.h>
#include <webp/demux.h>

namespace v2e {
namespace {

constexpr size_t PIECE = 65536; // bytes that the library is shown at once

struct DemuxerDeleter {
    void operator()(WebPDemuxer *demuxer) const { WebPDemuxDelete(demuxer); }
};
struct DecoderDeleter {
    void operator()(WebPIDecoder *decoder) const { WebPIDelete(decoder); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, DemuxerDeleter>;

// Finds the chunks of a complete file.
Demuxer open_demuxer(Bytes bytes, const PictureOptions &options) {
    const WebPData data{bytes.data(), bytes.size()};
    Demuxer demuxer(WebPDemux(&data));
    if (!demuxer || WebPDemuxGetI(demuxer.get(), WEBP_FF_FRAME_COUNT) == 0)
        fail_damaged(options, "its chunks do not make a WebP picture");
    return demuxer;
}

// A chunk by its name; empty when there is none. It lies in the file's bytes.
Bytes chunk_of(const WebPDemuxer *demuxer, const char *name) {
    WebPChunkIterator found;
    if (WebPDemuxGetChunk(demuxer, name, 1, &found) == 0)
        return {};
    const Bytes chunk(found.chunk.bytes, found.chunk.size);
    WebPDemuxReleaseChunkIterator(&found);
    return chunk;
}

} // namespace

PictureHeader inspect_webp(Bytes bytes, const PictureOptions &options) {
    const Demuxer demuxer = open_demuxer(bytes, options);
    PictureHeader header{.kind = V2E_PICTURE_WEBP, .readable = true};
    header.size = {WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH),
                   WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT)};
    check_size(header.size.width, header.size.height, options);
    header.frames = WebPDemuxGetI(demuxer.get(), WEBP_FF_FRAME_COUNT);
    if (!options.strict) {
        const Bytes exif = chunk_of(demuxer.get(), "EXIF");
        header.orientation = orientation_of({!exif.empty(), exif, chunk_of(demuxer.get(), "XMP ")});
    }
    return header;
}

void decode_webp(Bytes bytes, const PictureHeader &header, const PictureOptions &options, uint8_t *rgb,
                 PixelMeter &meter) {
    const Demuxer demuxer = open_demuxer(bytes, options);
    WebPIterator frame;
    if (WebPDemuxGetFrame(demuxer.get(), 1, &frame) == 0)
        fail_damaged(options, "it has no first frame");
    const Bytes packed(frame.fragment.bytes, frame.fragment.size);
    const size_t width = header.size.width, left = static_cast<size_t>(frame.x_offset),
                 top = static_cast<size_t>(frame.y_offset);
    const size_t columns = static_cast<size_t>(frame.width), rows = static_cast<size_t>(frame.height);
    WebPDemuxReleaseIterator(&frame);
    if (left + columns > width || top + rows > header.size.height)
        fail_damaged(options, "its first frame lies outside the picture");

    WebPDecoderConfig config;
    if (WebPInitDecoderConfig(&config) == 0)
        fail(V2E_ERROR_INTERNAL, "The library for WebP pictures is of another version than its header.");
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = rgb + 3 * (top * width + left);
    config.output.u.RGBA.stride = static_cast<int>(3 * width);
    config.output.u.RGBA.size = 3 * (width * (rows - 1) + columns);
    const std::unique_ptr<WebPIDecoder, DecoderDeleter> decoder(WebPIDecode(nullptr, 0, &config));
    if (!decoder)
        throw std::bad_alloc();
    VP8StatusCode status = VP8_STATUS_SUSPENDED;
    for (size_t shown = 0; shown < packed.size() && status == VP8_STATUS_SUSPENDED;) {
        const size_t piece = std::min(PIECE, packed.size() - shown);
        shown += piece;
        meter.add(PixelMeter::STEP / 2); // what a piece unpacks to is not known before
        status = WebPIUpdate(decoder.get(), packed.data(), shown);
    }
    if (status == VP8_STATUS_OUT_OF_MEMORY)
        throw std::bad_alloc();
    if (status != VP8_STATUS_OK)
        fail_damaged(options, "its pixels cannot be unpacked");
}

} // namespace v2e
