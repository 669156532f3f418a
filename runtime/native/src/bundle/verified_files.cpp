#include "bundle/verified_files.hpp"

#include "base/error.hpp"
#include "base/input_file.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/new_file.hpp"
#include "base/utf8.hpp"

#include <filesystem>
#include <utility>

namespace v2e {
namespace {

constexpr uint64_t VERSION = 2;
constexpr size_t MOST_BYTES = size_t{16} << 20;
constexpr const char *FILE_NAME = "verified_files.json";
constexpr size_t ENTRY_VALUES = 6; // the stamp's five and the digest

bool is_there(const std::string &path) {
    std::error_code error;
    return std::filesystem::is_regular_file(std::u8string(path.begin(), path.end()), error);
}

std::string folder_of(const std::string &path) {
    const size_t end = path.find_last_of("/\\");
    return end == std::string::npos ? std::string(".") : path.substr(0, end);
}

} // namespace

VerifiedFiles::VerifiedFiles(std::string path) : path_(std::move(path)) {
    if (path_.empty())
        return;
    try {
        read();
    } catch (const Failure &) {
        entries_.clear();
    }
}

std::string VerifiedFiles::usual_path() {
    const std::string directory = user_data_directory();
    return directory.empty() ? std::string() : directory + "/" + FILE_NAME;
}

void VerifiedFiles::read() {
    const std::string text = InputFile(path_, InputFile::Trust::own).read_all(MOST_BYTES);
    const Json record = Json::parse(text, path_);
    if (record.at("version").unsigned_integer() != VERSION)
        return;
    const Json files = record.at("files");
    for (const std::string &name : files.keys()) {
        const Json values = files.at(name);
        if (values.kind() != Json::Kind::array)
            continue;
        const std::vector<Json> entry = values.items();
        if (entry.size() != ENTRY_VALUES)
            continue;
        try {
            v2e_file_stamp stamp{};
            stamp.struct_size = sizeof stamp;
            stamp.device = entry[0].unsigned_integer();
            stamp.inode = entry[1].unsigned_integer();
            stamp.size = entry[2].unsigned_integer();
            stamp.mtime_ns = static_cast<int64_t>(entry[3].unsigned_integer());
            stamp.ctime_ns = static_cast<int64_t>(entry[4].unsigned_integer());
            entries_[name] = {stamp, entry[5].string()};
        } catch (const Failure &) { // one that somebody else understands: it is hashed again
        }
    }
}

bool VerifiedFiles::knows(const std::string &path, const v2e_file_stamp &stamp, const std::string &sha256) const {
    const auto found = entries_.find(path);
    return found != entries_.end() && same_stamp(found->second.stamp, stamp) && found->second.sha256 == sha256;
}

void VerifiedFiles::remember(const std::string &path, const v2e_file_stamp &stamp, const std::string &sha256) {
    if (path_.empty() || !is_utf8(path) || stamp.mtime_ns < 0 || stamp.ctime_ns < 0)
        return;
    entries_[path] = {stamp, sha256};
    changed_ = true;
}

void VerifiedFiles::save() noexcept {
    if (!changed_)
        return;
    changed_ = false;
    guard([this] {
        if (!make_own_directory(folder_of(path_)))
            return;
        std::string text = "{\n \"version\": " + std::to_string(VERSION) + ",\n \"files\": {";
        const char *before = "\n  ";
        for (const auto &[path, entry] : entries_) {
            if (!is_there(path))
                continue;
            const v2e_file_stamp &stamp = entry.stamp;
            text += before + json_quoted(path) + ": [" + std::to_string(stamp.device) + ", " +
                    std::to_string(stamp.inode) + ", " + std::to_string(stamp.size) + ", " +
                    std::to_string(stamp.mtime_ns) + ", " + std::to_string(stamp.ctime_ns) + ", " +
                    json_quoted(entry.sha256) + "]";
            before = ",\n  ";
        }
        text += "\n }\n}\n";
        NewFile file(path_);
        file.write(text.data(), text.size());
        file.commit();
    });
}

} // namespace v2e
