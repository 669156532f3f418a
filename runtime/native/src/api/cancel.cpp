// The functions of valley2.h about cancels.
#include "api/cancel.hpp"

#include "api/arguments.hpp"

struct v2e_cancel {
    std::shared_ptr<v2e::CancelFlag> flag;
};

std::shared_ptr<const v2e::CancelFlag> v2e::flag_of(const v2e_cancel *cancel) {
    return cancel == nullptr ? nullptr : cancel->flag;
}

v2e_status v2e_cancel_create(v2e_cancel **cancel) {
    return v2e::guard([&] {
        v2e::require(cancel, "cancel");
        *cancel = nullptr;
        *cancel = new v2e_cancel{std::make_shared<v2e::CancelFlag>()};
    });
}

void v2e_cancel_set(v2e_cancel *cancel) {
    if (cancel != nullptr)
        cancel->flag->set();
}

void v2e_cancel_clear(v2e_cancel *cancel) {
    if (cancel != nullptr)
        cancel->flag->clear();
}

void v2e_cancel_destroy(v2e_cancel *cancel) {
    delete cancel;
}
