#include "vision/encoder.hpp"

#include "base/error.hpp"
#include "vision/picture_encoding.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

namespace v2e {
namespace {

constexpr std::chrono::milliseconds BETWEEN_LOOKS{20}; // at the stop of a call that waits

} // namespace

// Has the towers from its beginning to its end.
class VisionEncoder::Turn {
  public:
    // `stop` ends the wait with V2E_ERROR_CANCELLED; null: nothing does.
    Turn(VisionEncoder &encoder, const VisionStop *stop) : encoder_(encoder) {
        std::unique_lock<std::mutex> lock(encoder.turn_lock_);
        if (encoder.turn_of_ == std::this_thread::get_id())
            fail(V2E_ERROR_INPUT, "A callback of the vision encoder cannot use the encoder; it can only cancel.");
        while (encoder.turn_of_ != std::thread::id()) {
            if (stop != nullptr)
                stop->require_going();
            encoder.turn_over_.wait_for(lock, BETWEEN_LOOKS);
        }
        encoder.turn_of_ = std::this_thread::get_id();
    }
    ~Turn() {
        {
            const std::lock_guard<std::mutex> lock(encoder_.turn_lock_);
            encoder_.turn_of_ = std::thread::id();
        }
        encoder_.turn_over_.notify_one();
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

  private:
    VisionEncoder &encoder_;
};

VisionEncoder::VisionEncoder(VisionOptions options)
    : towers_(options), cache_(options.cache_bytes), keep_(options.keep), trim_(std::move(options.trim)) {}

VisionEncoder::~VisionEncoder() = default;

EncodedPictures VisionEncoder::encode(const std::vector<VisionPicture> &pictures, VisionStop &stop,
                                      const VisionEvents &events) {
    EncodedPictures result;
    result.embeddings.resize(pictures.size());
    if (pictures.empty())
        return result;
    stop.flag().begin_call();
    const VisionCall call{stop, events};
    std::vector<size_t> wanted;
    if (cache_.budget_bytes() == 0) {
        for (size_t place = 0; place < pictures.size(); ++place)
            wanted.push_back(place);
        const Turn turn(*this, &stop);
        compute(pictures, wanted, call, result);
        return result;
    }
    std::vector<EmbeddingCache::Key> keys;
    for (const VisionPicture &picture : pictures)
        keys.push_back(
            picture_key(picture.pixels, picture.geometry, *picture.options, [&stop] { return !stops(&stop.flag()); }));
    // The place of the first of equal pictures.
    std::map<EmbeddingCache::Key, size_t> first;
    for (size_t place = 0; place < pictures.size(); ++place)
        first.emplace(keys[place], place);
    const auto look_up = [&] {
        wanted.clear();
        for (const auto &[key, place] : first)
            if (result.embeddings[place] == nullptr && (result.embeddings[place] = cache_.find(key)) == nullptr)
                wanted.push_back(place);
        std::sort(wanted.begin(), wanted.end());
    };
    look_up();
    if (!wanted.empty()) {
        const Turn turn(*this, &stop);
        look_up(); // another call may have computed them in the meantime
        if (!wanted.empty())
            compute(pictures, wanted, call, result);
        for (const size_t place : wanted)
            cache_.keep(keys[place], result.embeddings[place]);
    }
    for (size_t place = 0; place < pictures.size(); ++place)
        result.embeddings[place] = result.embeddings[first.at(keys[place])];
    result.hits = pictures.size() - wanted.size();
    return result;
}

void VisionEncoder::run(v2e_component component, const TowerCall &run, size_t row_floats, size_t output_floats,
                        VisionStop &stop, const VisionEvents &events) {
    stop.flag().begin_call();
    const VisionCall call{stop, events};
    const Turn turn(*this, &stop);
    const Tower &tower = towers_.open(component, run.count, call);
    if (tower.input_floats() != row_floats)
        fail(V2E_ERROR_INPUT, "The %s tower takes %zu numbers for each of its inputs, not %zu.",
             component_name(component), tower.input_floats(), row_floats);
    if (cost_of(tower, run.count).output_floats != output_floats)
        fail(V2E_ERROR_INPUT, "The %s tower gives %zu numbers for these inputs, not %zu.", component_name(component),
             static_cast<size_t>(cost_of(tower, run.count).output_floats), output_floats);
    towers_.run(component, {run.input, run.positions, run.count, run.output, events.layer}, row_floats, output_floats,
                call);
}

void VisionEncoder::release() {
    const Turn turn(*this, nullptr);
    towers_.release();
}

void VisionEncoder::compute(const std::vector<VisionPicture> &pictures, const std::vector<size_t> &wanted,
                            const VisionCall &call, EncodedPictures &result) {
    trim_unless_kept();
    try {
        PictureEncoding encoding(pictures, wanted, towers_, call, result);
        encoding.load_siglip();
        trim_unless_kept();
        encoding.encode_tiles();
        release_unless_kept();
        if (encoding.has_eagle()) {
            encoding.load_eagle();
            trim_unless_kept();
            encoding.encode_patches();
        }
        encoding.finish();
    } catch (...) {
        release_unless_kept();
        throw;
    }
    release_unless_kept();
}

void VisionEncoder::release_unless_kept() {
    if (!keep_)
        towers_.release();
    trim_unless_kept();
}

void VisionEncoder::trim_unless_kept() const {
    if (!keep_ && trim_)
        trim_();
}

} // namespace v2e
