// What the functions of the headers check of their arguments, and how they fill in a caller's struct.
#pragma once

#include "base/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace v2e {

// An argument that points to something, where values of its type may lie.
template <class Value>
void require(const Value *pointer, const char *name) {
    if (pointer == nullptr)
        fail(V2E_ERROR_INPUT, "The argument %s is NULL.", name);
    if (!is_aligned(pointer))
        fail(V2E_ERROR_INPUT, "The argument %s is not aligned to the %zu bytes of its values.", name, alignof(Value));
}

// As much of a struct as its caller knows; its struct_size stays.
template <class Struct>
void write_struct(const Struct &full, Struct *target, const char *name) {
    require(target, name);
    const size_t size = target->struct_size;
    if (size < sizeof size)
        fail(V2E_ERROR_INPUT, "%s.struct_size is not set.", name);
    std::memcpy(target, &full, std::min(size, sizeof full));
    target->struct_size = size;
}

} // namespace v2e
