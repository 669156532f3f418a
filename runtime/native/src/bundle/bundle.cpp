#include "bundle/bundle.hpp"

#include "base/error.hpp"
#include "base/input_file.hpp"
#include "base/sha256.hpp"
#include "base/utf8.hpp"
#include "bundle/verified_files.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

namespace v2e {
namespace {

namespace fs = std::filesystem;

constexpr size_t MOST_FILES = 1000;
constexpr size_t MOST_NAME = 512;
constexpr uint64_t MOST_SIZE = uint64_t{1} << 50;
constexpr size_t PIECE = size_t{1} << 20; // bytes that are read between two looks at a cancel
constexpr const char *MANIFEST_NAME = "valley2.json";
constexpr std::array<const char *, 4> COMPONENT_FOLDERS = {"decoder", "selftest", "tokenizer", "vision"};
constexpr std::array<const char *, 3> LEFT_BY_FILE_MANAGERS = {".DS_Store", "Thumbs.db", "desktop.ini"};

fs::path path_of(const std::string &utf8) {
    return std::u8string(utf8.begin(), utf8.end());
}

std::string text_of(const fs::path &path) {
    const std::u8string utf8 = path.generic_u8string();
    return {utf8.begin(), utf8.end()};
}

std::string resolved(const std::string &directory) {
    std::error_code error;
    if (!fs::is_directory(path_of(directory), error))
        fail(V2E_ERROR_BUNDLE, "%s is not a directory; a bundle is made with `valley2-edge export`.",
             directory.c_str());
    const fs::path absolute = fs::canonical(path_of(directory), error);
    if (error)
        fail(V2E_ERROR_BUNDLE, "%s cannot be read: %s.", directory.c_str(), error.message().c_str());
    const std::string found = text_of(absolute);
    if (!fs::exists(fs::symlink_status(absolute / MANIFEST_NAME, error)))
        fail(V2E_ERROR_BUNDLE, "%s is not a bundle: it has no %s.", found.c_str(), MANIFEST_NAME);
    return found;
}

// A plain path below the bundle, the same on every system: a backslash or a colon would be a separator or a drive on
// Windows, and a control character would be obeyed by a terminal that shows the name.
bool is_inside(const std::string &name) {
    if (name.empty() || name.size() > MOST_NAME || !is_utf8(name) || shown(name).find('?') != std::string::npos)
        return false;
    size_t begin = 0;
    while (begin <= name.size()) {
        const size_t end = std::min(name.find('/', begin), name.size());
        const std::string part = name.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..")
            return false;
        begin = end + 1;
    }
    return name.find_first_of("\\:") == std::string::npos;
}

bool is_digest(const std::string &text) {
    return text.size() == 2 * Sha256::BYTES && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Waits until a write to the file would change its stamp: the clock of a file system ticks slowly.
void wait_out_clock(const v2e_file_stamp &stamp) {
    constexpr int64_t TICK_NS = 20'000'000;
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const int64_t age = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - stamp.ctime_ns;
    if (age >= 0 && age < TICK_NS)
        std::this_thread::sleep_for(std::chrono::nanoseconds(TICK_NS - age));
}

} // namespace

Bundle::Bundle(const std::string &directory, v2e_check check, const std::string &record, const CheckProgress &progress)
    : directory_(resolved(directory)), manifest_(directory_) {
    read_files();
    for (const auto &[name, file] : files_)
        check_presence(name, file);
    if (check == V2E_CHECK_FULL)
        check_unlisted();
    if (check != V2E_CHECK_SIZES)
        check_digests(check == V2E_CHECK_FULL, record, progress);
}

std::string Bundle::path(const std::string &name) const {
    if (!has(name))
        fail(V2E_ERROR_BUNDLE, "%s: the bundle has no file %s.", directory_.c_str(), name.c_str());
    return directory_ + "/" + name;
}

const v2e_file_stamp &Bundle::stamp(const std::string &name) const {
    path(name); // refuses what is not listed
    return stamps_.at(name);
}

std::string Bundle::read(const std::string &name, size_t most) const {
    InputFile file(path(name));
    if (!same_stamp(file.stamp(), stamps_.at(name)))
        fail(V2E_ERROR_BUNDLE, "%s has changed since the bundle was checked; load the bundle again.",
             path(name).c_str());
    return file.read_all(most);
}

void Bundle::read_files() {
    const Json files = manifest_.files();
    const std::vector<std::string> names = files.keys();
    if (names.size() > MOST_FILES)
        fail(V2E_ERROR_BUNDLE, "%s/%s lists more than %zu files.", directory_.c_str(), MANIFEST_NAME, MOST_FILES);
    for (const std::string &name : names) {
        if (!is_inside(name))
            fail(V2E_ERROR_BUNDLE, "%s/%s: '%s' is not a path inside the bundle.", directory_.c_str(), MANIFEST_NAME,
                 shown(name).c_str());
        const File file{files.at(name).at("size").unsigned_integer(), files.at(name).at("sha256").string()};
        if (file.size > MOST_SIZE || !is_digest(file.sha256))
            fail(V2E_ERROR_BUNDLE, "%s/%s: size or sha256 of %s are not acceptable; export the bundle again.",
                 directory_.c_str(), MANIFEST_NAME, name.c_str());
        files_[name] = file;
    }
}

void Bundle::check_presence(const std::string &name, const File &file) {
    const std::string path = directory_ + "/" + name;
    std::error_code error;
    const std::string target = text_of(fs::canonical(path_of(path), error));
    if (error == std::errc::no_such_file_or_directory)
        fail(V2E_ERROR_BUNDLE, "%s is missing; copy the bundle again as a whole.", path.c_str());
    if (error)
        fail(V2E_ERROR_BUNDLE, "%s cannot be read: %s.", path.c_str(), error.message().c_str());
    if (!target.starts_with(directory_ + "/"))
        fail(V2E_ERROR_BUNDLE, "%s is a link that leads out of the bundle.", path.c_str());
    const v2e_file_stamp stamp = InputFile(path).stamp();
    if (stamp.size != file.size)
        fail(V2E_ERROR_BUNDLE, "%s has %llu bytes instead of %llu; copy the bundle again.", path.c_str(),
             static_cast<unsigned long long>(stamp.size), static_cast<unsigned long long>(file.size));
    stamps_[name] = stamp;
}

void Bundle::check_unlisted() const {
    for (const char *folder : COMPONENT_FOLDERS) {
        std::error_code error;
        const fs::path root = path_of(directory_);
        fs::recursive_directory_iterator entries(root / folder, error);
        for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
            const fs::path &path = entries->path();
            const std::string name = text_of(path.lexically_relative(root));
            const bool harmless = std::find(LEFT_BY_FILE_MANAGERS.begin(), LEFT_BY_FILE_MANAGERS.end(),
                                            path.filename().string()) != LEFT_BY_FILE_MANAGERS.end();
            if (!entries->is_directory(error) && !harmless && !has(name))
                fail(V2E_ERROR_BUNDLE, "%s/%s does not list '%s', which lies in the bundle: remove it.",
                     directory_.c_str(), MANIFEST_NAME, shown(name).c_str());
        }
    }
}

void Bundle::check_digests(bool all, const std::string &record, const CheckProgress &progress) {
    VerifiedFiles verified(record);
    uint64_t done = 0, total = 0;
    for (const auto &[name, file] : files_)
        total += file.size;
    const auto advance = [&](uint64_t bytes) {
        done += bytes;
        if (progress && !progress(done, total)) {
            verified.save();
            fail(V2E_ERROR_CANCELLED, "The check of %s was cancelled.", directory_.c_str());
        }
    };
    std::vector<uint8_t> piece(PIECE);
    for (const auto &[name, file] : files_) {
        v2e_file_stamp &stamp = stamps_[name];
        const std::string path = directory_ + "/" + name;
        if (!all && verified.knows(path, stamp, file.sha256)) {
            advance(file.size);
            continue;
        }
        wait_out_clock(stamp);
        InputFile opened(path);
        stamp = opened.stamp();
        Sha256 digest;
        uint64_t left = stamp.size; // a file that grows as fast as it is read would never end
        for (size_t got; left > 0 && (got = opened.read(piece.data(), std::min<uint64_t>(PIECE, left))) > 0;) {
            digest.add(piece.data(), got);
            left -= got;
            advance(got);
        }
        if (!same_stamp(opened.stamp(), stamp))
            fail(V2E_ERROR_BUNDLE, "%s changed while it was read; try again when nothing writes to it.", path.c_str());
        if (left > 0 || sha256_hex(digest.finish()) != file.sha256)
            fail(V2E_ERROR_BUNDLE, "%s is damaged: its sha256 is not the manifest's; copy the bundle again.",
                 path.c_str());
        verified.remember(path, stamp, file.sha256);
    }
    verified.save();
}

} // namespace v2e
