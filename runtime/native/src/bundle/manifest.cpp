#include "bundle/manifest.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"

namespace v2e {
namespace {

constexpr uint64_t FORMAT_VERSION = 2; // of valley2.json
constexpr uint64_t MOST_SIZE = uint64_t{1} << 30;

Json read_json(const std::string &path) {
    const MappedFile file(path);
    return Json::parse({reinterpret_cast<const char *>(file.data()), file.size()}, path);
}

} // namespace

Manifest::Manifest(const std::string &directory)
    : directory_(directory), manifest_(read_json(directory + "/valley2.json")) {
    if (manifest_.at("format").string() != "valley2-bundle")
        fail(V2E_ERROR_BUNDLE, "%s/valley2.json is not the manifest of a bundle.", directory.c_str());
    const uint64_t version = manifest_.at("format_version").unsigned_integer();
    if (version != FORMAT_VERSION) // the same words as in Python
        fail(V2E_ERROR_BUNDLE, "%s has format version %llu and was made by %s.", directory.c_str(),
             static_cast<unsigned long long>(version),
             version < FORMAT_VERSION ? "an older release: export it again"
                                      : "a newer release: install a newer valley2-edge");
}

std::string Manifest::tower_path(const char *component) const {
    for (const Json &path : manifest_.at(component).at("files").items())
        if (path.string().ends_with(".safetensors"))
            return directory_ + "/" + path.string();
    fail(V2E_ERROR_BUNDLE, "%s has no native tower of %s; export it again.", directory_.c_str(), component);
}

Saturating Manifest::file_bytes(const char *path) const {
    return manifest_.at("files").at(path).at("size").unsigned_integer();
}

Saturating size_of(const Json &object, const char *key) {
    const uint64_t size = object.at(key).unsigned_integer();
    if (size == 0 || size > MOST_SIZE)
        fail(V2E_ERROR_BUNDLE, "The manifest's %s is out of range.", key);
    return size;
}

} // namespace v2e
