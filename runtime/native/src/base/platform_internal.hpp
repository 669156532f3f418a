// What the files of the systems share; everybody else includes platform.hpp.
#pragma once

#include <string>

namespace v2e {

[[noreturn]] void fail_changed(const std::string &path);

} // namespace v2e
