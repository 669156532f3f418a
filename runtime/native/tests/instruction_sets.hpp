// Tests under every instruction set that the machine has.
#pragma once

#include "cpu/isa.hpp"

template <class Body>
void for_each_isa(Body &&body) {
    for (const v2e_isa isa : v2e::ALL_ISAS)
        if (v2e::isa_available(isa))
            body(isa);
}
