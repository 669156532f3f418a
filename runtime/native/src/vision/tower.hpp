// A vision tower: what computes a component, be it the core's own kernels (native towers) or another engine.
#pragma once

#include "base/platform.hpp"
#include "base/saturating.hpp"
#include "base/stop_flag.hpp"
#include "base/thread_pool.hpp"
#include "cpu/vision/vision_kernels.hpp"
#include "valley2_parts.h"
#include "vision/tower_file.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace v2e {

// What a caller chooses, and the threads that compute it.
struct TowerOptions : v2e_tower_options {
    // threads: the pool of a model; null: threads of the tower's own, as many as the options say.
    TowerOptions(const v2e_tower_options &options, std::shared_ptr<ThreadPool> threads);

    std::shared_ptr<ThreadPool> pool;
};

// What native towers compute with: kernels, threads, and whether to stop.
class TowerEngine {
  public:
    TowerEngine(const TowerOptions &options, const StopFlag &stop)
        : isa_(chosen_isa_of(options)), kernels_(vision_kernels(isa_)), pool_(options.pool), stop_(stop) {}

    v2e_isa isa() const { return isa_; }
    const VisionKernels &kernels() const { return kernels_; }
    unsigned threads() const { return pool_->threads(); }
    const VisionArithmetic &arithmetic(const TowerMatrix &matrix) const {
        return kernels_.arithmetic(matrix.precision);
    }
    const StopFlag &stop() const { return stop_; }

    // body(worker, task) for every task in [0, tasks); a worker does one at a time. Fails with V2E_ERROR_CANCELLED.
    template <class Body>
    void run(size_t tasks, Body &&body) {
        pool_->run_workers(pool_->threads(), tasks, &stop_, std::forward<Body>(body));
    }

  private:
    static v2e_isa chosen_isa_of(const v2e_tower_options &options);

    v2e_isa isa_;
    const VisionKernels &kernels_;
    std::shared_ptr<ThreadPool> pool_;
    const StopFlag &stop_; // the tower's
};

// A NaN or an infinity, noticed on any thread; of several stages the first counts.
class StageCheck {
  public:
    explicit StageCheck(const std::string &tower) : tower_(tower) {}

    // stages are numbered in the order of computation
    void note(bool finite, int stage) {
        if (finite)
            return;
        int first = first_.load(std::memory_order_relaxed);
        while (stage < first && !first_.compare_exchange_weak(first, stage, std::memory_order_relaxed)) {
        }
    }
    // Fails with V2E_ERROR_NUMERIC; name(stage) completes "computed a NaN or an infinity in".
    template <class Name>
    void require(Name &&name) const {
        const int stage = first_.load(std::memory_order_relaxed);
        if (stage != NONE)
            refuse(name(stage));
    }

  private:
    static constexpr int NONE = 1 << 30;

    [[noreturn]] void refuse(const std::string &stage) const;

    const std::string &tower_;
    std::atomic<int> first_{NONE};
};

// One run of a tower.
struct TowerCall {
    const float *input;
    const int64_t *positions; // (count, 2), eagle only
    size_t count;             // tiles or patches
    float *output;
    // Called between stages with what is done and all there is to do; false cancels.
    std::function<bool(size_t done, size_t total)> report;
};

class VocabularyCounters;

class Tower {
  public:
    virtual ~Tower() = default;
    Tower(const Tower &) = delete;
    Tower &operator=(const Tower &) = delete;

    virtual void run(const TowerCall &call) = 0;
    // Makes a running `run` fail with V2E_ERROR_CANCELLED, or else the next one; from any thread.
    virtual void cancel() { stop_.set(); }
    virtual v2e_tower_description describe() const = 0;
    // Input values of one tile or patch.
    virtual size_t input_floats() const = 0;
    virtual Saturating output_floats(Saturating count) const = 0;
    // Multiplications and additions in matrices and attention; 0: not known.
    virtual double operations(size_t count) const = 0;
    // Bytes that a run allocates and the tower keeps.
    virtual Saturating scratch_bytes(Saturating count) const = 0;
    // What the last run left out of a visual vocabulary; null where there is none.
    virtual const VocabularyCounters *vocabulary() const { return nullptr; }
    // Fails when what it computes with is not any more what it was when it was opened.
    virtual void require_intact() const {}

    StopFlag &stop() { return stop_; }

  protected:
    Tower() = default;

    // Fails with V2E_ERROR_CANCELLED when the tower or the caller is to stop.
    void report(const TowerCall &call, size_t done, size_t total) const;

    StopFlag stop_;
};

// A tower of the core's own kernels, with the mapped weights of a file.
class NativeTower : public Tower {
  public:
    v2e_tower_description describe() const override;
    void require_intact() const override { file_.require_intact(); }

    size_t mapped_bytes() const { return file_.mapped_bytes(); }

  protected:
    NativeTower(TowerFile file, const TowerOptions &options) : file_(std::move(file)), engine_(options, stop_) {}

    TowerFile file_;
    TowerEngine engine_;
};

// "siglip", "projector" or "eagle".
const char *component_name(v2e_component component);

// Fails with V2E_ERROR_INPUT unless Eagle can make tokens of so many patches at their positions.
void check_patches(const TowerCall &call, size_t patches_of_a_token);

// What a run of so many tiles or patches takes. Fails with V2E_ERROR_INPUT for a number that no tower takes, and with
// V2E_ERROR_BUDGET for more memory than any machine has.
v2e_tower_cost cost_of(const Tower &tower, size_t count);

// A whole call of a tower: also fails when what it computes with has changed, whatever came of it.
void run_tower(Tower &tower, const TowerCall &call);

} // namespace v2e
