// Tests under every instruction set that the machine has.
#pragma once

#include "cpu/isa.hpp"
#include "tests/check.hpp"

#include <string>

template <class Body>
void for_each_isa(Body &&body) {
    for (const v2e_isa isa : v2e::ALL_ISAS) {
        INFO("instruction set: ", std::string(v2e::isa_name(isa))); // shown when a check fails
        if (v2e::isa_available(isa))
            body(isa);
    }
}
