// The vision half of a bundle: SigLIP, its projector and Eagle, in the core's own towers or in a backend. Pictures go
// in, embeddings come out (docs/vision.md).
#pragma once

#include "valley2_parts.h"
#include "vision/embedding_cache.hpp"
#include "vision/picture_encoding.hpp"
#include "vision/tower.hpp"
#include "vision/tower_set.hpp"
#include "vision/vision_stop.hpp"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace v2e {

// Towers are loaded when they are needed. Shared by threads: calls wait for each other, and the wait obeys their stops.
class VisionEncoder {
  public:
    explicit VisionEncoder(VisionOptions options);
    ~VisionEncoder();
    VisionEncoder(const VisionEncoder &) = delete;
    VisionEncoder &operator=(const VisionEncoder &) = delete;

    // SigLIP and the projector go over all pictures, then Eagle does, so that only one of them is in memory. Of equal
    // pictures one is computed, and none that the cache knows. Fails with V2E_ERROR_CANCELLED, V2E_ERROR_BUNDLE for a
    // tower that cannot be loaded, V2E_ERROR_NUMERIC, V2E_ERROR_BUDGET, V2E_ERROR_INPUT for options of another bundle.
    EncodedPictures encode(const std::vector<VisionPicture> &pictures, VisionStop &stop, const VisionEvents &events);

    // One component by itself; it stays loaded until `release` or the end of the next `encode`. row_floats: numbers in
    // one tile, the features of one tile, or one patch. call.output: of `output_floats`. call.report is not heard.
    void run(v2e_component component, const TowerCall &run, size_t row_floats, size_t output_floats, VisionStop &stop,
             const VisionEvents &events);

    // The following are legal from every thread at any time.
    bool is_loaded(v2e_component component) const { return towers_.is_loaded(component); }
    // "native avx2", or the backend's name; "" for a component that was never loaded.
    std::string computed_by(v2e_component component) const { return towers_.computed_by(component); }
    // "native", or the name of the backend unless it cannot compute here at all.
    std::string engine() const { return towers_.engine(); }
    bool keeps() const { return keep_; }
    void set_keep(bool keep) { keep_ = keep; } // from the end of the running call on
    EmbeddingCache &cache() { return cache_; }
    const EmbeddingCache &cache() const { return cache_; }

    // Unloads the towers once no call uses them; the next call loads them again. Fails with V2E_ERROR_INPUT when a
    // callback of a running call asks.
    void release();

  private:
    class Turn;

    // Those of `pictures` at the places that `wanted` names, into the same places of `result`.
    void compute(const std::vector<VisionPicture> &pictures, const std::vector<size_t> &wanted, const VisionCall &call,
                 EncodedPictures &result);
    void release_unless_kept();
    void trim_unless_kept() const;

    TowerSet towers_;
    EmbeddingCache cache_;
    std::atomic<bool> keep_;
    std::function<void()> trim_;

    std::mutex turn_lock_;
    std::condition_variable turn_over_;
    std::thread::id turn_of_; // the thread whose call uses the towers; none: nobody's does
};

} // namespace v2e
