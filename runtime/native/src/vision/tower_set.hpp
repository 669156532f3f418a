// The towers of a bundle's vision half: loaded when they are needed, in the core's own kernels or in a backend.
#pragma once

#include "base/backend_table.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "valley2_parts.h"
#include "vision/backend_tower.hpp"
#include "vision/tower.hpp"
#include "vision/vision_stop.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace v2e {

constexpr size_t VISION_COMPONENTS = 3; // siglip, projector, eagle

enum class VisionStage {
    siglip, // tiles that have gone through SigLIP and the projector
    eagle,  // pictures that have gone through Eagle
    build   // work of a backend that makes ready for the pictures
};

// What a call tells, on the thread that makes it. A function that is empty is not called, and false cancels the call.
struct VisionEvents {
    std::function<bool(VisionStage stage, uint64_t done, uint64_t total)> progress;
    std::function<bool(size_t done, size_t total)> layer;    // of the run of a tower that is going on
    std::function<bool(const std::string &sentence)> notice; // for people: the core computes in a backend's place
};

// The files of the vision half.
struct VisionFiles {
    std::string directory;                             // of the bundle, UTF-8; a backend finds the bundle's sizes there
    std::array<std::string, VISION_COMPONENTS> towers; // paths of siglip, projector, eagle; empty: there is none
    std::array<std::optional<v2e_file_stamp>, VISION_COMPONENTS> stamps; // of the checked files; nothing: any file

    // As the manifest has them. Fails with V2E_ERROR_BUNDLE.
    static VisionFiles of_bundle(const std::string &directory);
};

struct VisionOptions {
    VisionFiles files;
    uint32_t threads = 0;                 // of towers without a pool; 0: as many as the process may run on
    std::shared_ptr<ThreadPool> pool;     // the decoder's, so that both share one budget; null: each tower has its own
    uint32_t isa = V2E_ISA_AUTO;          // v2e_isa of the core's towers
    const v2e_backend *backend = nullptr; // computes what it can; it outlives the encoder. Null: the core does
    bool keep = false;                    // towers stay between calls; otherwise each goes after its use
    uint64_t cache_bytes = 0;             // most bytes of embeddings that are kept
    std::function<void()> trim;           // called when towers come or go, unless they are kept; may be empty
};

// The call that towers work for.
struct VisionCall {
    VisionStop &stop;
    const VisionEvents &events;

    // Fails with V2E_ERROR_CANCELLED when the listener says so.
    void report(VisionStage stage, uint64_t done, uint64_t total) const;
};

// One thread at a time works with it; what is marked is legal from others.
class TowerSet {
  public:
    // Keeps what the options say of towers. Fails with V2E_ERROR_INPUT for an unusable backend.
    explicit TowerSet(const VisionOptions &options);
    ~TowerSet();
    TowerSet(const TowerSet &) = delete;
    TowerSet &operator=(const TowerSet &) = delete;

    // The component, loaded for inputs of so many tiles or patches. What the backend cannot compute, the core's tower
    // does, and the call's listener is told.
    Tower &open(v2e_component component, size_t rows, const VisionCall &call);
    // One run. Fails with V2E_ERROR_BUNDLE unless the tower takes row_floats numbers for each of its inputs and gives
    // output_floats for all of them.
    void run(v2e_component component, const TowerCall &run, size_t row_floats, size_t output_floats,
             const VisionCall &call);
    // Whether the backend computes it; otherwise the core does.
    bool in_backend(v2e_component component) const;
    // The one that is open; null where there is none.
    const Tower *find(v2e_component component) const;
    // Unloads all; `open` loads again.
    void release();

    // From any thread.
    bool is_loaded(v2e_component component) const;
    // "native avx2", or the backend's name; "" for a component that was never loaded.
    std::string computed_by(v2e_component component) const;
    // "native", or the name of the backend unless it cannot compute here at all.
    std::string engine() const;

  private:
    struct Place {
        std::unique_ptr<Tower> tower;
        BackendTower *in_backend = nullptr; // the same tower, where a backend computes it
        size_t prepared_rows = 0;           // that the backend has made ready for
        bool failed = false;                // the backend cannot compute it
    };

    Place &place_of(v2e_component component) { return places_[component - V2E_COMPONENT_SIGLIP]; }
    const Place &place_of(v2e_component component) const { return places_[component - V2E_COMPONENT_SIGLIP]; }
    void load(v2e_component component, const VisionCall &call);
    void start_backend(const VisionCall &call);
    void open_native(v2e_component component, Place &place);
    void prepare(Place &place, size_t rows, const VisionCall &call);
    void fall_back(v2e_component component, const Failure &failure, const VisionCall &call);
    void note(v2e_component component, bool loaded, const std::string &computed_by);
    void unload(v2e_component component);

    VisionFiles files_;
    v2e_tower_options native_{};
    std::shared_ptr<ThreadPool> pool_;
    std::optional<BackendTable> backend_;
    bool started_ = false; // the backend has found what it needs
    std::array<Place, VISION_COMPONENTS> places_;

    mutable std::mutex state_; // guards the following
    bool backend_runs_;        // false: there is none, or it cannot compute here at all
    std::array<bool, VISION_COMPONENTS> loaded_{};
    std::array<std::string, VISION_COMPONENTS> computed_by_;
};

} // namespace v2e
