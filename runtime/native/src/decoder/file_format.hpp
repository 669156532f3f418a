// What the decoder's files say of themselves.
#pragma once

#include "bundle/safetensors.hpp"

#include <string>

namespace v2e {

// All failures are V2E_ERROR_BUNDLE and name the file.
const std::string &metadata_of(const SafetensorsFile &file, const char *key);
// Refuses a file of another format, or of a version that this release does not read.
void check_format(const SafetensorsFile &file, const char *format);

} // namespace v2e
