#include "bundle/safetensors.hpp"

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/utf8.hpp"

#include <algorithm>
#include <string_view>

namespace v2e {
namespace {

constexpr size_t LENGTH_BYTES = 8;
constexpr size_t MOST_DIMENSIONS = 8;

struct Dtype {
    std::string_view name;
    uint64_t bytes;
};

constexpr Dtype DTYPES[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                            {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                            {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};

uint64_t read_little_endian(const std::byte *bytes) {
    uint64_t value = 0;
    for (size_t i = LENGTH_BYTES; i-- > 0;)
        value = value << 8 | static_cast<uint64_t>(bytes[i]);
    return value;
}

class HeaderReader {
  public:
    HeaderReader(const std::string &path, const std::byte *data, uint64_t data_bytes)
        : path_(path), data_(data), data_bytes_(data_bytes) {}

    std::map<std::string, TensorView> read_tensors(const Json &header) {
        std::map<std::string, TensorView> tensors;
        for (const std::string &name : header.keys())
            if (name != "__metadata__")
                tensors.emplace(name, read_tensor(name, header.at(name)));
        check_coverage();
        return tensors;
    }

  private:
    struct Range {
        uint64_t begin, end;
        std::string name;
    };

    [[noreturn]] void refuse(const std::string &name, const char *reason) const {
        fail(V2E_ERROR_BUNDLE, "%s: tensor '%s' %s.", path_.c_str(), shown(name).c_str(), reason);
    }

    TensorView read_tensor(const std::string &name, const Json &entry) {
        for (const std::string &key : entry.keys())
            if (key != "dtype" && key != "shape" && key != "data_offsets")
                refuse(name, ("has the unknown field '" + shown(key) + "'").c_str());
        TensorView view;
        view.dtype = entry.at("dtype").string();
        uint64_t bytes = element_bytes(name, view.dtype);
        const std::vector<Json> dimensions = entry.at("shape").items();
        if (dimensions.size() > MOST_DIMENSIONS)
            refuse(name, "has too many dimensions");
        for (const Json &dimension : dimensions) {
            const uint64_t size = dimension.unsigned_integer();
            if (size != 0 && bytes > UINT64_MAX / size)
                refuse(name, "has a shape that overflows");
            bytes *= size;
            view.shape.push_back(size);
        }
        const std::vector<Json> offsets = entry.at("data_offsets").items();
        if (offsets.size() != 2)
            refuse(name, "does not have two data offsets");
        const uint64_t begin = offsets[0].unsigned_integer(), end = offsets[1].unsigned_integer();
        if (begin > end || end > data_bytes_)
            refuse(name, "lies outside of the file, which may be truncated");
        if (end - begin != bytes)
            refuse(name, "has offsets that disagree with its shape");
        view.data = data_ + begin;
        view.bytes = static_cast<size_t>(bytes);
        ranges_.push_back({begin, end, name});
        return view;
    }

    uint64_t element_bytes(const std::string &name, const std::string &dtype) const {
        for (const Dtype &known : DTYPES)
            if (known.name == dtype)
                return known.bytes;
        refuse(name, ("has the unknown dtype '" + shown(dtype) + "'").c_str());
    }

    // The tensors must cover the data without overlaps and holes.
    void check_coverage() {
        std::sort(ranges_.begin(), ranges_.end(), [](const Range &a, const Range &b) {
            return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
        });
        uint64_t covered = 0;
        for (const Range &range : ranges_) {
            if (range.begin < covered)
                refuse(range.name, "overlaps another one");
            if (range.begin > covered)
                refuse(range.name, "leaves a hole before it");
            covered = range.end;
        }
        if (covered != data_bytes_)
            fail(V2E_ERROR_BUNDLE, "%s has bytes after its last tensor.", path_.c_str());
    }

    const std::string &path_;
    const std::byte *data_;
    uint64_t data_bytes_;
    std::vector<Range> ranges_;
};

std::map<std::string, std::string> read_metadata(const Json &header) {
    std::map<std::string, std::string> metadata;
    if (!header.contains("__metadata__"))
        return metadata;
    const Json &entries = header.at("__metadata__");
    for (const std::string &key : entries.keys())
        metadata.emplace(key, entries.at(key).string());
    return metadata;
}

} // namespace

SafetensorsFile::SafetensorsFile(const std::string &utf8_path, const v2e_file_stamp *stamp, size_t most_header_bytes)
    : path_(utf8_path), file_(utf8_path, stamp) {
    if (file_.size() < LENGTH_BYTES)
        fail(V2E_ERROR_BUNDLE, "%s is too short for a safetensors file.", path_.c_str());
    const uint64_t header_bytes = read_little_endian(file_.data());
    if (header_bytes > file_.size() - LENGTH_BYTES)
        fail(V2E_ERROR_BUNDLE, "%s ends within its header; the file may be truncated.", path_.c_str());
    if (header_bytes > most_header_bytes)
        fail(V2E_ERROR_BUNDLE, "%s has a header of %llu bytes, but such a file needs less than %zu.", path_.c_str(),
             static_cast<unsigned long long>(header_bytes), most_header_bytes);
    const char *text = reinterpret_cast<const char *>(file_.data() + LENGTH_BYTES);
    if (header_bytes == 0 || text[0] != '{')
        fail(V2E_ERROR_BUNDLE, "%s has a header that does not begin with a brace.", path_.c_str());
    const Json header = Json::parse({text, static_cast<size_t>(header_bytes)}, path_ + ": the header");
    const size_t data_offset = LENGTH_BYTES + static_cast<size_t>(header_bytes);
    HeaderReader reader(path_, file_.data() + data_offset, file_.size() - data_offset);
    tensors_ = reader.read_tensors(header);
    metadata_ = read_metadata(header);
}

const TensorView &SafetensorsFile::tensor(const std::string &name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
        fail(V2E_ERROR_BUNDLE, "%s lacks the tensor '%s'.", path_.c_str(), shown(name).c_str());
    return found->second;
}

void SafetensorsFile::require_intact(v2e_status status) const {
    if (file_.changed())
        fail(status, "The file '%s' was changed or became shorter while it was in use; restore it and open it again.",
             path_.c_str());
}

bool SafetensorsFile::contains(const std::string &name) const {
    return tensors_.find(name) != tensors_.end();
}

} // namespace v2e
