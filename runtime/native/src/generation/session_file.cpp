#include "generation/session_file.hpp"

#include "base/digest.hpp"
#include "base/error.hpp"
#include "base/new_file.hpp"
#include "base/utf8.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>

namespace v2e {
namespace {

constexpr const char *FORMAT = "valley2-session";
constexpr const char *VERSION = "1";
constexpr const char *CHECKSUM = "checksum";
constexpr std::array<std::string_view, 5> TENSOR_NAMES = {"tokens", "keys", "kv", "logits", "note"};
constexpr std::array<std::string_view, 8> METADATA_KEYS = {
    "format", "format_version", "identity", "arithmetic", "kv_precision", "context_length", "prefill_chunk", CHECKSUM};
constexpr size_t MOST_HEADER_BYTES = size_t{64} << 10; // five tensors and nine short texts need less
constexpr std::array<const char *, KV_PRECISIONS> PRECISION_NAMES = {"fp32", "fp16", "int8"}; // as KvPrecision counts

// What v2e_decoder_session_note can give back: UTF-8, and no zero before its end.
bool is_note(const std::string &note) {
    return note.find('\0') == std::string::npos && is_utf8(note);
}

using Metadata = std::map<std::string, std::string>;

struct Piece {
    const void *data;
    size_t bytes;
};

struct Tensor {
    std::string dtype;
    std::vector<uint64_t> shape;
    std::vector<Piece> pieces; // that follow each other
};

using Tensors = std::map<std::string, Tensor>;

std::string joined(const std::vector<uint64_t> &shape) {
    std::string text;
    for (const uint64_t size : shape) {
        if (!text.empty())
            text += ',';
        text += std::to_string(size);
    }
    return text;
}

// The checksum of everything in the file but the checksum itself.
std::string checksum_of(const Metadata &metadata, const Tensors &tensors) {
    Digest digest;
    const auto add = [&digest](const std::string &text) { digest.add(text.c_str(), text.size() + 1); };
    for (const auto &[key, value] : metadata) {
        if (key == CHECKSUM)
            continue;
        add(key);
        add(value);
    }
    for (const auto &[name, tensor] : tensors) {
        add(name);
        add(tensor.dtype);
        add(joined(tensor.shape));
        for (const Piece &piece : tensor.pieces)
            digest.add(piece.data, piece.bytes);
    }
    return to_hex(digest.finish());
}

size_t bytes_of(const Tensor &tensor) {
    size_t bytes = 0;
    for (const Piece &piece : tensor.pieces)
        bytes += piece.bytes;
    return bytes;
}

// Names and values are our own: nothing in them needs escaping.
std::string header_of(const Metadata &metadata, const Tensors &tensors) {
    std::string text = "{\"__metadata__\":{";
    for (const auto &[key, value] : metadata)
        text += (text.back() == '{' ? "\"" : ",\"") + key + "\":\"" + value + "\"";
    text += "}";
    size_t begin = 0;
    for (const auto &[name, tensor] : tensors) {
        const size_t end = begin + bytes_of(tensor);
        text += ",\"" + name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + joined(tensor.shape) +
                "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
        begin = end;
    }
    text += "}";
    text.append((8 - text.size() % 8) % 8, ' ');
    return text;
}

Tensors tensors_of(const SavedSession &saved, const SessionArrays &arrays, const AlignedBuffer<std::byte> &last_page) {
    const size_t length = arrays.keys.size(), pages = (length + KV_PAGE - 1) / KV_PAGE;
    Tensors tensors;
    tensors["tokens"] = {"I32", {length}, {{arrays.tokens.data(), length * sizeof(int32_t)}}};
    tensors["keys"] = {"U64", {length, 2}, {{arrays.keys.data(), length * sizeof(PositionKey)}}};
    tensors["note"] = {"U8", {saved.note.size()}, {{saved.note.data(), saved.note.size()}}};
    Tensor &kv = tensors["kv"] = {"U8", {pages, arrays.cache.bytes_of(1)}, {}};
    for (size_t i = 0; i < pages; ++i) {
        const AlignedBuffer<std::byte> &page = i + 1 == pages ? last_page : *arrays.cache.page(i);
        kv.pieces.push_back({page.data(), page.size()});
    }
    if (arrays.logits != nullptr)
        tensors["logits"] = {
            "F32", {arrays.vocabulary_size}, {{arrays.logits, arrays.vocabulary_size * sizeof(float)}}};
    return tensors;
}

} // namespace

void write_session(const std::string &path, const SavedSession &saved, const SessionArrays &arrays) {
    if (saved.note.size() > MOST_NOTE_BYTES || !is_note(saved.note))
        fail(V2E_ERROR_INPUT, "The note of a session must be UTF-8 of at most %zu bytes.", MOST_NOTE_BYTES);
    const size_t length = arrays.keys.size();
    const AlignedBuffer<std::byte> last_page =
        length == 0 ? AlignedBuffer<std::byte>() : arrays.cache.clean_page((length - 1) / KV_PAGE, length);
    const Tensors tensors = tensors_of(saved, arrays, last_page);
    Metadata metadata = {{"format", FORMAT},
                         {"format_version", VERSION},
                         {"identity", saved.identity},
                         {"arithmetic", saved.arithmetic},
                         {"kv_precision", PRECISION_NAMES[static_cast<size_t>(saved.precision)]},
                         {"context_length", std::to_string(saved.context_length)},
                         {"prefill_chunk", std::to_string(saved.prefill_chunk)}};
    metadata[CHECKSUM] = checksum_of(metadata, tensors);
    const std::string header = header_of(metadata, tensors);
    std::array<uint8_t, 8> header_bytes;
    for (size_t i = 0; i < header_bytes.size(); ++i)
        header_bytes[i] = static_cast<uint8_t>(uint64_t{header.size()} >> (8 * i));
    NewFile file(path);
    file.write(header_bytes.data(), header_bytes.size());
    file.write(header.data(), header.size());
    for (const auto &[name, tensor] : tensors)
        for (const Piece &piece : tensor.pieces)
            file.write(piece.data, piece.bytes);
    file.commit();
}

namespace {

SafetensorsFile open_session(const std::string &path) {
    try {
        return SafetensorsFile(path, nullptr, MOST_HEADER_BYTES);
    } catch (const Failure &failure) {
        fail(V2E_ERROR_INPUT, "%s", failure.message.c_str()); // no file of the bundle
    }
}

} // namespace

SessionFile::SessionFile(const std::string &path, const std::string &identity) : file_(open_session(path)) {
    const auto format = file_.metadata().find("format");
    if (format == file_.metadata().end() || format->second != FORMAT)
        fail(V2E_ERROR_INPUT, "%s is not a saved session.", path.c_str());
    if (metadata("format_version") != VERSION)
        fail(V2E_ERROR_INPUT, "%s is a saved session of another format version; upgrade valley2-edge.", path.c_str());
    if (metadata("identity") != identity)
        fail(V2E_ERROR_INPUT, "%s was saved with another bundle; only that one can go on with it.", path.c_str());
    saved_.identity = identity;
    for (const auto &[name, tensor] : file_.tensors())
        if (std::find(TENSOR_NAMES.begin(), TENSOR_NAMES.end(), name) == TENSOR_NAMES.end())
            refuse("it has a tensor '" + shown(name) + "', which is unknown to this release");
    for (const auto &[key, value] : file_.metadata())
        if (std::find(METADATA_KEYS.begin(), METADATA_KEYS.end(), key) == METADATA_KEYS.end())
            refuse("its metadata have '" + shown(key) + "', which is unknown to this release");
    if (!file_.contains("note") || file_.tensor("note").bytes > MOST_NOTE_BYTES)
        refuse();
    const TensorView &note = file_.tensor("note");
    saved_.note.assign(reinterpret_cast<const char *>(note.data), note.bytes);
    if (!is_note(saved_.note))
        refuse();
    saved_.context_length = number("context_length");
    saved_.prefill_chunk = number("prefill_chunk");
    if (saved_.context_length == 0 || saved_.prefill_chunk == 0)
        refuse();
    for (size_t i = 0; i < PRECISION_NAMES.size(); ++i)
        if (metadata("kv_precision") == PRECISION_NAMES[i]) {
            saved_.precision = static_cast<KvPrecision>(i);
            return;
        }
    refuse();
}

void SessionFile::check_sum() const {
    Tensors tensors;
    for (const auto &[name, tensor] : file_.tensors())
        tensors[name] = {tensor.dtype, tensor.shape, {{tensor.data, tensor.bytes}}};
    if (metadata(CHECKSUM) != checksum_of(file_.metadata(), tensors))
        refuse();
}

const std::byte *SessionFile::tensor(const char *name, const char *dtype, const std::vector<uint64_t> &shape) const {
    if (!file_.contains(name))
        refuse();
    const TensorView &view = file_.tensor(name);
    if (view.dtype != dtype || view.shape != shape)
        refuse();
    return view.data;
}

size_t SessionFile::length() const {
    if (!file_.contains("tokens") || file_.tensor("tokens").shape.size() != 1)
        refuse();
    return static_cast<size_t>(file_.tensor("tokens").shape[0]);
}

const std::string &SessionFile::metadata(const char *key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end())
        refuse();
    return found->second;
}

size_t SessionFile::number(const char *key) const {
    const std::string &text = metadata(key);
    size_t value = 0;
    if (text.empty() || text.size() > 9)
        refuse();
    for (const char digit : text) {
        if (digit < '0' || digit > '9')
            refuse();
        value = 10 * value + static_cast<size_t>(digit - '0');
    }
    return value;
}

void SessionFile::refuse(const std::string &reason) const {
    fail(V2E_ERROR_INPUT, "%s is damaged: %s.", file_.path().c_str(), reason.c_str());
}

} // namespace v2e
