// A reader of the large parts of a tokenizer.json: it goes through a text once and keeps nothing of it. Values that it
// passes over are read by base/json.hpp, which is stricter and takes more time and memory.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

// A member of an object: the text of its value is not looked into.
struct JsonMember {
    std::string key;
    std::string_view value;
};

// Everything fails with V2E_ERROR_BUNDLE where the text is no JSON (RFC 8259). The text is UTF-8.
class JsonScanner {
  public:
    static constexpr size_t MOST_MEMBERS = 1024; // of an object that `members` lists
    static constexpr size_t MOST_DIGITS = 100;   // of a number

    // `part` is read, which lies in `text`; messages name the document and the byte of the text.
    JsonScanner(std::string_view text, std::string_view part, const std::string &document);

    // The character that the next value begins with; '\0' at the end.
    char peek();
    bool accept(char expected); // passes over it, if it is next
    void expect(char expected, const char *reason);
    void expect_end();

    void string(std::string &value); // a string, without its escapes
    // A whole number, which is limited to what fits; nothing, and the value is passed over, when it is another value.
    std::optional<int64_t> whole_number();
    // The text of a value, whatever it is; brackets are counted and strings passed over.
    std::string_view skip_value();
    // The members of an object, in their order. No key may be there twice.
    std::vector<JsonMember> members();

    [[noreturn]] void refuse(const char *reason) const;

  private:
    void skip_space();
    void skip_string();
    void escape(std::string &value);
    uint32_t code_unit();

    std::string_view text_;
    size_t position_, end_;
    const std::string &document_;
};

} // namespace v2e
