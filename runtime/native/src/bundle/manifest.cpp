#include "bundle/manifest.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

namespace v2e {
namespace {

Json read(const std::string &path) {
    const MappedFile file(path);
    return Json::parse({reinterpret_cast<const char *>(file.data()), file.size()}, path);
}

} // namespace

Manifest::Manifest(const std::string &bundle_directory)
    : directory_(bundle_directory), content_(read(bundle_directory + "/valley2.json")) {
    if (content_.at("format").string() != "valley2-bundle")
        fail(V2E_ERROR_BUNDLE, "%s/valley2.json is not the manifest of a bundle.", bundle_directory.c_str());
    if (content_.at("format_version").unsigned_integer() != 1)
        fail(V2E_ERROR_BUNDLE, "%s is a bundle of another format version; upgrade valley2-edge.",
             bundle_directory.c_str());
}

} // namespace v2e
