// A strict reader of JSON (RFC 8259): valid UTF-8, no duplicate keys, nothing after the value.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

// One JSON value. An accessor of the wrong kind fails with V2E_ERROR_BUNDLE, naming the document.
class Json {
  public:
    enum class Kind { null, boolean, number, string, array, object };

    // `document` names the text in error messages, for example "decoder.safetensors: config".
    static Json parse(std::string_view text, const std::string &document);

    Kind kind() const { return kind_; }
    bool boolean() const;
    double number() const;
    uint64_t unsigned_integer() const; // a number without sign, fraction and exponent, below 2^64
    const std::string &string() const;
    const std::vector<Json> &items() const; // of an array

    // Of an object.
    const std::vector<std::string> &keys() const; // in the order of the text
    bool contains(std::string_view key) const;
    const Json &at(std::string_view key) const;

  private:
    friend class JsonParser;
    [[noreturn]] void fail_kind(const char *expected) const;

    Kind kind_ = Kind::null;
    bool boolean_ = false;
    bool is_unsigned_ = false;
    uint64_t unsigned_ = 0;
    double number_ = 0;
    std::string string_;
    std::vector<Json> items_; // values of an array or, in the order of keys_, of an object
    std::vector<std::string> keys_;
    std::map<std::string, size_t, std::less<>> index_; // key -> position in items_
    std::string path_;                                 // document and keys down to this value
};

} // namespace v2e
