// A strict reader of JSON (RFC 8259): valid UTF-8, no duplicate keys, nothing after the value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

struct JsonDocument;

// One value of a JSON text, which all its values keep. Copying one is cheap. An accessor of the wrong kind fails with
// V2E_ERROR_BUNDLE, naming the document and the keys that lead to the value.
class Json {
  public:
    enum class Kind : uint8_t { null, boolean, number, string, array, object };

    // A text may come from anybody. Beyond the limits it is refused with V2E_ERROR_BUNDLE; within them it takes no more
    // memory than its own size and VALUE_BYTES for each of its values.
    static constexpr size_t MOST_BYTES = size_t{16} << 20;
    static constexpr size_t MOST_VALUES = size_t{1} << 18;
    static constexpr size_t MOST_DEPTH = 64;
    static constexpr size_t MOST_KEY_BYTES = 1024;
    static constexpr size_t VALUE_BYTES = 40;

    // `document` names the text in error messages, for example "decoder.safetensors: config".
    static Json parse(std::string_view text, const std::string &document);

    Kind kind() const;
    bool boolean() const;
    double number() const;
    uint64_t unsigned_integer() const; // a number without sign, fraction and exponent, below 2^64
    std::string string() const;
    std::vector<Json> items() const; // the elements of an array

    // The value is an object.
    std::vector<std::string> keys() const; // in the order of the text
    bool contains(std::string_view key) const;
    Json at(std::string_view key) const;

  private:
    Json(std::shared_ptr<const JsonDocument> document, uint32_t node) : document_(std::move(document)), node_(node) {}
    void require(Kind kind, const char *expected) const;
    uint32_t find(std::string_view key) const;
    std::string path() const;

    std::shared_ptr<const JsonDocument> document_;
    uint32_t node_; // in the document
};

} // namespace v2e
