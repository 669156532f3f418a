#include "picture/decode/jpeg.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>

namespace v2e {
namespace {

constexpr size_t PIECE = 65536;  // bytes that the library is shown at once
constexpr JDIMENSION STRIP = 16; // rows that are decoded at once
constexpr int MOST_SCANS = 500;  // of a progressive picture; encoders write about ten
constexpr size_t ROW_WORK = 16;  // multiply-adds for a pixel

// What the library's callbacks reach. It reports an error by a jump, which may pass no object that must be destroyed:
// every call of the library stands in a function of its own that holds none.
struct Decoding {
    jpeg_decompress_struct library{};
    jpeg_error_mgr errors{};
    jpeg_source_mgr source{};
    jpeg_progress_mgr progress{};
    std::jmp_buf back{};
    char reason[JMSG_LENGTH_MAX] = "";
    size_t hidden = 0; // bytes that the library was not shown yet
    size_t row_work = 0;
    PixelMeter *meter = nullptr;
    std::exception_ptr stopped; // what the meter threw
};

enum class Step { done, hungry, failed };

Decoding &decoding_of(j_common_ptr library) {
    return *static_cast<Decoding *>(library->client_data);
}

[[noreturn]] void on_error(j_common_ptr library) {
    Decoding &decoding = decoding_of(library);
    (*library->err->format_message)(library, decoding.reason);
    std::longjmp(decoding.back, 1);
}

// Asks the meter; what it throws is kept, because it must not pass the library.
bool may_go_on(Decoding &decoding) noexcept {
    try {
        decoding.meter->add(decoding.row_work);
        return true;
    } catch (...) {
        decoding.stopped = std::current_exception();
        return false;
    }
}

// The library calls it for every few rows of every scan.
void on_progress(j_common_ptr library) {
    Decoding &decoding = decoding_of(library);
    if (decoding.library.input_scan_number > MOST_SCANS)
        std::snprintf(decoding.reason, sizeof decoding.reason, "it has more than %d scans", MOST_SCANS);
    else if (may_go_on(decoding))
        return;
    std::longjmp(decoding.back, 1);
}

boolean on_hunger(j_decompress_ptr) {
    return FALSE; // the library returns, and is called again when it was shown more
}

void on_skip(j_decompress_ptr library, long count) {
    Decoding &decoding = decoding_of(reinterpret_cast<j_common_ptr>(library));
    jpeg_source_mgr &source = decoding.source;
    if (count <= 0)
        return;
    const size_t wanted = static_cast<size_t>(count);
    if (wanted > source.bytes_in_buffer) { // over bytes that were not shown yet, or that are not there
        const size_t more = std::min(wanted - source.bytes_in_buffer, decoding.hidden);
        decoding.hidden -= more;
        source.bytes_in_buffer += more;
    }
    const size_t skipped = std::min(wanted, source.bytes_in_buffer);
    source.next_input_byte += skipped;
    source.bytes_in_buffer -= skipped;
}

void on_nothing(j_decompress_ptr) {}
void on_message(j_common_ptr) {}
void on_warning(j_common_ptr, int) {}

Step create(Decoding &decoding, const uint8_t *bytes, size_t size) {
    decoding.library.err = jpeg_std_error(&decoding.errors);
    decoding.errors.error_exit = on_error;
    decoding.errors.output_message = on_message;
    decoding.errors.emit_message = on_warning; // what Pillow does not hear is no damage
    decoding.library.client_data = &decoding;
    if (setjmp(decoding.back) != 0) {
        jpeg_destroy_decompress(&decoding.library);
        return Step::failed;
    }
    jpeg_create_decompress(&decoding.library);
    decoding.library.client_data = &decoding;
    decoding.library.src = &decoding.source;
    decoding.library.progress = &decoding.progress;
    decoding.progress.progress_monitor = on_progress;
    decoding.source.init_source = on_nothing;
    decoding.source.fill_input_buffer = on_hunger;
    decoding.source.skip_input_data = on_skip;
    decoding.source.resync_to_restart = jpeg_resync_to_restart;
    decoding.source.term_source = on_nothing;
    decoding.source.next_input_byte = bytes;
    decoding.source.bytes_in_buffer = 0;
    decoding.hidden = size;
    return Step::done;
}

Step read_header(Decoding &decoding) {
    if (setjmp(decoding.back) != 0)
        return Step::failed;
    return jpeg_read_header(&decoding.library, TRUE) == JPEG_SUSPENDED ? Step::hungry : Step::done;
}

Step start(Decoding &decoding) {
    if (setjmp(decoding.back) != 0)
        return Step::failed;
    return jpeg_start_decompress(&decoding.library) ? Step::done : Step::hungry;
}

// Decodes some rows; count: how many there are.
Step read_rows(Decoding &decoding, JSAMPROW *rows, JDIMENSION most, JDIMENSION &count) {
    count = 0;
    if (setjmp(decoding.back) != 0)
        return Step::failed;
    count = jpeg_read_scanlines(&decoding.library, rows, most);
    return count == 0 ? Step::hungry : Step::done;
}

Step finish(Decoding &decoding) {
    if (setjmp(decoding.back) != 0)
        return Step::failed;
    return jpeg_finish_decompress(&decoding.library) ? Step::done : Step::hungry;
}

// Inverted cyan, magenta, yellow and black (count, 4) to red, green and blue (count, 3), with Pillow's arithmetic.
void from_inks(const uint8_t *inks, size_t count, uint8_t *rgb) {
    for (size_t pixel = 0; pixel < count; ++pixel, inks += 4, rgb += 3) {
        const int light = inks[3]; // 255 minus black
        for (int channel = 0; channel < 3; ++channel) {
            const int product = (255 - inks[channel]) * light + 128;
            rgb[channel] = static_cast<uint8_t>(std::clamp(light - (((product >> 8) + product) >> 8), 0, 255));
        }
    }
}

// Owns the library's memory, and feeds it.
class JpegDecoder {
  public:
    JpegDecoder(Bytes bytes, const PictureOptions &options, PixelMeter &meter) : options_(options), meter_(meter) {
        decoding_.meter = &meter;
        require(create(decoding_, bytes.data(), bytes.size()));
    }
    JpegDecoder(const JpegDecoder &) = delete;
    JpegDecoder &operator=(const JpegDecoder &) = delete;
    ~JpegDecoder() { jpeg_destroy_decompress(&decoding_.library); }

    void decode(const PictureHeader &header, uint8_t *rgb) {
        feed([&] { return read_header(decoding_); });
        jpeg_decompress_struct &library = decoding_.library;
        if (library.image_width != header.size.width || library.image_height != header.size.height)
            fail_damaged(options_, "its headers say two sizes");
        const size_t width = header.size.width;
        const bool inks = library.num_components == 4;
        library.out_color_space = inks ? JCS_CMYK : JCS_EXT_RGB;
        library.dct_method = JDCT_ISLOW;
        library.do_fancy_upsampling = TRUE;
        decoding_.row_work = ROW_WORK * width * 8;
        feed([&] { return start(decoding_); });
        decode_rows(header.size, inks, rgb);
        // Pillow refuses a wrong marker behind the last row, and forgives when there is none.
        while (wait_for(finish(decoding_)) && show_more()) {
        }
    }

  private:
    void decode_rows(Size size, bool inks, uint8_t *rgb) {
        const size_t width = size.width;
        std::vector<uint8_t> strip(inks ? 4 * width * STRIP : 0); // (rows, width, 4)
        JSAMPROW rows[STRIP];
        for (JDIMENSION row = 0; row < size.height;) {
            const JDIMENSION most = std::min<JDIMENSION>(STRIP, size.height - row);
            for (JDIMENSION place = 0; place < most; ++place)
                rows[place] = inks ? strip.data() + 4 * width * place : rgb + 3 * width * (row + place);
            JDIMENSION count = 0;
            feed([&] { return read_rows(decoding_, rows, most, count); });
            if (inks)
                from_inks(strip.data(), width * count, rgb + 3 * width * row);
            row += count;
        }
    }

    // Repeats a step until it is done.
    template <class Call>
    void feed(Call call) {
        while (wait_for(call()))
            if (!show_more())
                fail_damaged(options_, "the file ends too early");
    }

    // Whether the library needs more of the file.
    bool wait_for(Step step) {
        require(step);
        return step == Step::hungry;
    }

    // Shows the library more of the file; false when there is no more.
    bool show_more() {
        const size_t piece = std::min(PIECE, decoding_.hidden);
        decoding_.hidden -= piece;
        decoding_.source.bytes_in_buffer += piece;
        meter_.add(piece);
        return piece > 0;
    }

    void require(Step step) {
        if (step != Step::failed)
            return;
        if (decoding_.stopped)
            std::rethrow_exception(decoding_.stopped);
        if (decoding_.errors.msg_code == JERR_OUT_OF_MEMORY)
            throw std::bad_alloc();
        fail_damaged(options_, decoding_.reason);
    }

    const PictureOptions &options_;
    PixelMeter &meter_;
    Decoding decoding_;
};

} // namespace

void decode_jpeg(Bytes bytes, const PictureHeader &header, const PictureOptions &options, uint8_t *rgb,
                 PixelMeter &meter) {
    JpegDecoder(bytes, options, meter).decode(header, rgb);
}

} // namespace v2e
