// JSON values beside those that a file must have, and as messages show them.
#pragma once

#include "base/json.hpp"

#include <string>

namespace v2e {

// Whether two values are equal, whatever the order of keys; true is 1 and false is 0.
bool equal_values(const Json &a, const Json &b);

// A stranger's value as Python writes it: quoted, without control characters, and short.
std::string shown_value(const Json &value);

} // namespace v2e
