// A v2e_backend as the core calls it: checked, and its failures are the core's.
#pragma once

#include "valley2.h"

#include <cstdint>
#include <string>

namespace v2e {

// A component that a backend has opened; closes it.
class BackendEngine {
  public:
    BackendEngine(const v2e_backend &backend, v2e_component component);
    ~BackendEngine();
    BackendEngine(const BackendEngine &) = delete;
    BackendEngine &operator=(const BackendEngine &) = delete;

    // Fails with the status that the backend returns.
    void run(const v2e_backend_run &run) const;
    // Does nothing where the backend has no such function.
    void prepare(uint64_t count, v2e_backend_progress progress, void *context) const;
    // From any thread, also while nothing runs.
    void cancel() const noexcept;

  private:
    const v2e_backend &backend_;
    void *engine_ = nullptr;
};

// Keeps a copy of the caller's struct; what that points to is the caller's.
class BackendTable {
  public:
    // `option` is where the caller put it, for messages. Fails with V2E_ERROR_INPUT when a function is missing.
    BackendTable(const v2e_backend *given, const char *option);
    BackendTable(const BackendTable &) = delete;
    BackendTable &operator=(const BackendTable &) = delete;

    const v2e_backend &backend() const { return backend_; }
    const std::string &name() const { return name_; }
    // Fails with the status that the backend returns. count and positions: as in v2e_backend_shape.
    v2e_backend_cost cost(v2e_component component, uint64_t count, uint64_t positions) const;
    // Do nothing where the backend has no such function.
    void start() const;
    void stop() const noexcept;

  private:
    v2e_backend backend_;
    std::string name_;
};

} // namespace v2e
