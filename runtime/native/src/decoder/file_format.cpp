#include "decoder/file_format.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

namespace v2e {

const std::string &metadata_of(const SafetensorsFile &file, const char *key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
        fail(V2E_ERROR_BUNDLE, "%s has no metadata \"%s\"; export the bundle again.", file.path().c_str(), key);
    return found->second;
}

void check_format(const SafetensorsFile &file, const char *format) {
    if (metadata_of(file, "format") != format)
        fail(V2E_ERROR_BUNDLE, "%s is not of the format %s.", file.path().c_str(), format);
    const std::string &version = metadata_of(file, "format_version");
    if (version != "1")
        fail(V2E_ERROR_BUNDLE, "%s has format version %s, but this release reads version 1; upgrade valley2-edge.",
             file.path().c_str(), shown(version).c_str());
}

} // namespace v2e
