// A vision component in another engine (valley2.h, "backends"), which this drives: it checks what goes in and comes
// out.
#pragma once

#include "base/backend_table.hpp"
#include "vision/tower.hpp"

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace v2e {

// Numbers that a vision component takes and gives, as a bundle's manifest has them.
struct ComponentSizes {
    ComponentSizes(const std::string &bundle_directory, v2e_component component);

    size_t input = 0;        // of one tile, features of one tile, or one patch
    size_t output = 0;       // of one tile, or of one token of Eagle
    size_t in_an_output = 1; // tiles or patches that an output is made of
};

class BackendTower final : public Tower {
  public:
    // Fails when the backend does not open the component, or with V2E_ERROR_BUNDLE when the bundle has none.
    BackendTower(const std::string &bundle_directory, const v2e_backend *backend, uint32_t component);

    // Makes ready for runs of so many tiles or patches. `progress` is told how far that is, 0 of 0 where it is only
    // asked; false ends it. Fails as the backend does, with V2E_ERROR_CANCELLED when it was ended.
    void prepare(size_t count, const std::function<bool(uint64_t done, uint64_t total)> &progress);
    void run(const TowerCall &call) override;
    void cancel() override;
    v2e_tower_description describe() const override;
    size_t input_floats() const override { return sizes_.input; }
    Saturating output_floats(Saturating count) const override { return count / sizes_.in_an_output * sizes_.output; }
    double operations(size_t) const override { return 0; }
    Saturating scratch_bytes(Saturating count) const override;

  private:
    void run_once(const v2e_backend_run &run);
    void end_run(bool cancelled);
    void check_output(const v2e_backend_run &run) const;

    BackendTable backend_;
    v2e_component component_;
    ComponentSizes sizes_;
    BackendEngine engine_;

    // Recursive: a signal handler may cancel while this very thread does.
    std::recursive_mutex running_;
    bool runs_ = false;  // a run has begun that the backend may be told to cancel
    bool told_ = false;  // it has been
    bool stale_ = false; // the backend was told when its run was as good as over, and may obey in the next one
};

} // namespace v2e
