#include "base/backend_table.hpp"

#include "base/error.hpp"

namespace v2e {
namespace {

// Calls a function of a backend; what it returns other than V2E_OK becomes a failure, with the sentence that it said.
template <class Call>
void require_ok(const char *name, const char *function, Call &&call) {
    const std::string before = last_error();
    set_last_error("");
    const int status = call();
    if (status == V2E_OK) {
        set_last_error(before.c_str()); // it is that of the last call that failed
        return;
    }
    const bool known = status > V2E_OK && status <= V2E_ERROR_ENGINE;
    const v2e_status given = known ? static_cast<v2e_status>(status) : V2E_ERROR_INTERNAL;
    if (last_error()[0] != '\0')
        throw Failure{given, last_error()};
    fail(given, "The backend %s failed to %s with the status %d and did not say why.", name, function, status);
}

} // namespace

BackendEngine::BackendEngine(const v2e_backend &backend, v2e_component component) : backend_(backend) {
    require_ok(backend.name, "open", [&] { return backend.open(backend.user_data, component, &engine_); });
}

BackendEngine::~BackendEngine() {
    backend_.close(engine_);
}

void BackendEngine::run(const v2e_backend_run &run) const {
    require_ok(backend_.name, "run", [&] { return backend_.run(engine_, &run); });
}

void BackendEngine::prepare(uint64_t count, v2e_backend_progress progress, void *context) const {
    if (backend_.prepare != nullptr)
        require_ok(backend_.name, "prepare", [&] { return backend_.prepare(engine_, count, progress, context); });
}

void BackendEngine::cancel() const noexcept {
    if (backend_.cancel != nullptr)
        backend_.cancel(engine_);
}

BackendTable::BackendTable(const v2e_backend *given, const char *option) : backend_(read_options(given)) {
    if (backend_.open == nullptr || backend_.cost == nullptr || backend_.run == nullptr || backend_.close == nullptr)
        fail(V2E_ERROR_INPUT, "%s must have the functions open, cost, run and close; one of them is NULL.", option);
    name_ = backend_.name == nullptr ? "without a name" : backend_.name;
    backend_.name = name_.c_str();
}

void BackendTable::start() const {
    if (backend_.start != nullptr)
        require_ok(backend_.name, "start", [&] { return backend_.start(backend_.user_data); });
}

void BackendTable::stop() const noexcept {
    if (backend_.stop != nullptr)
        backend_.stop(backend_.user_data);
}

v2e_backend_cost BackendTable::cost(v2e_component component, uint64_t count, uint64_t positions) const {
    v2e_backend_shape shape{};
    shape.struct_size = sizeof shape;
    shape.component = component;
    shape.count = count;
    shape.positions = positions;
    v2e_backend_cost cost{};
    cost.struct_size = sizeof cost;
    require_ok(backend_.name, "say its cost", [&] { return backend_.cost(backend_.user_data, &shape, &cost); });
    return cost;
}

} // namespace v2e
