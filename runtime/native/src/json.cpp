#include "json.hpp"

#include "error.hpp"

#include <locale>
#include <sstream>

namespace v2e {

// Recursive descent over the text. Positions in messages are byte offsets.
class JsonParser {
  public:
    JsonParser(std::string_view text, const std::string &document) : text_(text), document_(document) {}

    Json parse() {
        Json value = parse_value(document_, 0);
        skip_space();
        if (position_ != text_.size())
            refuse("something follows the value");
        return value;
    }

  private:
    static constexpr int MAX_DEPTH = 64;

    [[noreturn]] void refuse(const char *reason) const {
        fail(V2E_ERROR_BUNDLE, "%s is not valid JSON: %s at byte %zu.", document_.c_str(), reason, position_);
    }

    bool at_end() const { return position_ == text_.size(); }
    char peek() const { return at_end() ? '\0' : text_[position_]; }

    bool accept(char expected) {
        if (at_end() || text_[position_] != expected)
            return false;
        ++position_;
        return true;
    }

    void expect(char expected, const char *reason) {
        if (!accept(expected))
            refuse(reason);
    }

    void skip_space() {
        while (!at_end() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t'))
            ++position_;
    }

    Json parse_value(const std::string &path, int depth) {
        if (depth > MAX_DEPTH)
            refuse("the nesting is too deep");
        skip_space();
        Json value;
        value.path_ = path;
        switch (peek()) {
        case '{':
            parse_object(value, depth);
            break;
        case '[':
            parse_array(value, depth);
            break;
        case '"':
            value.kind_ = Json::Kind::string;
            value.string_ = parse_string();
            break;
        case 't':
        case 'f':
            value.kind_ = Json::Kind::boolean;
            value.boolean_ = peek() == 't';
            parse_word(value.boolean_ ? "true" : "false");
            break;
        case 'n':
            parse_word("null");
            break;
        default:
            parse_number(value);
        }
        return value;
    }

    void parse_word(std::string_view word) {
        if (text_.substr(position_, word.size()) != word)
            refuse("an unknown word stands");
        position_ += word.size();
    }

    void parse_object(Json &value, int depth) {
        value.kind_ = Json::Kind::object;
        expect('{', "an object is missing");
        skip_space();
        if (accept('}'))
            return;
        do {
            skip_space();
            std::string key = parse_string();
            if (!value.index_.emplace(key, value.items_.size()).second)
                refuse("a key stands twice");
            skip_space();
            expect(':', "a colon is missing");
            value.items_.push_back(parse_value(value.path_ + ": " + key, depth + 1));
            value.keys_.push_back(std::move(key));
            skip_space();
        } while (accept(','));
        expect('}', "a comma or a closing brace is missing");
    }

    void parse_array(Json &value, int depth) {
        value.kind_ = Json::Kind::array;
        expect('[', "an array is missing");
        skip_space();
        if (accept(']'))
            return;
        do {
            value.items_.push_back(parse_value(value.path_, depth + 1));
            skip_space();
        } while (accept(','));
        expect(']', "a comma or a closing bracket is missing");
    }

    std::string parse_string() {
        expect('"', "a string is missing");
        std::string result;
        for (;;) {
            if (at_end())
                refuse("a string does not end");
            const unsigned char byte = static_cast<unsigned char>(text_[position_]);
            if (byte == '"') {
                ++position_;
                return result;
            }
            if (byte < 0x20)
                refuse("a control character stands in a string");
            if (byte == '\\')
                parse_escape(result);
            else if (byte < 0x80)
                result += text_[position_++];
            else
                copy_utf8(byte, result);
        }
    }

    void parse_escape(std::string &result) {
        ++position_;
        const char kind = peek();
        ++position_;
        switch (kind) {
        case '"':
        case '\\':
        case '/':
            result += kind;
            return;
        case 'b':
            result += '\b';
            return;
        case 'f':
            result += '\f';
            return;
        case 'n':
            result += '\n';
            return;
        case 'r':
            result += '\r';
            return;
        case 't':
            result += '\t';
            return;
        case 'u':
            append_utf8(parse_code_point(), result);
            return;
        default:
            --position_;
            refuse("an unknown escape stands in a string");
        }
    }

    uint32_t parse_hex4() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i, ++position_) {
            const char digit = peek();
            if (digit >= '0' && digit <= '9')
                value = value * 16 + static_cast<uint32_t>(digit - '0');
            else if (digit >= 'a' && digit <= 'f')
                value = value * 16 + static_cast<uint32_t>(digit - 'a' + 10);
            else if (digit >= 'A' && digit <= 'F')
                value = value * 16 + static_cast<uint32_t>(digit - 'A' + 10);
            else
                refuse("a \\u escape lacks its four digits");
        }
        return value;
    }

    uint32_t parse_code_point() {
        const uint32_t first = parse_hex4();
        if (first >= 0xdc00 && first < 0xe000)
            refuse("a surrogate stands alone");
        if (first < 0xd800 || first >= 0xe000)
            return first;
        if (!accept('\\') || !accept('u'))
            refuse("a surrogate stands alone");
        const uint32_t second = parse_hex4();
        if (second < 0xdc00 || second >= 0xe000)
            refuse("a surrogate stands alone");
        return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    }

    static void append_utf8(uint32_t code, std::string &result) {
        const auto append = [&](uint32_t byte) { result += static_cast<char>(byte); };
        if (code < 0x80) {
            append(code);
        } else if (code < 0x800) {
            append(0xc0 | code >> 6);
            append(0x80 | (code & 0x3f));
        } else if (code < 0x10000) {
            append(0xe0 | code >> 12);
            append(0x80 | (code >> 6 & 0x3f));
            append(0x80 | (code & 0x3f));
        } else {
            append(0xf0 | code >> 18);
            append(0x80 | (code >> 12 & 0x3f));
            append(0x80 | (code >> 6 & 0x3f));
            append(0x80 | (code & 0x3f));
        }
    }

    // Copies one multi-byte character; overlong forms, surrogates and code points above U+10FFFF are refused.
    void copy_utf8(unsigned char lead, std::string &result) {
        const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
        if (lead < 0xc2 || lead > 0xf4 || position_ + length > text_.size())
            refuse("the text is not UTF-8");
        uint32_t code = lead & (0xffu >> (length + 1));
        for (size_t i = 1; i < length; ++i) {
            const unsigned char byte = static_cast<unsigned char>(text_[position_ + i]);
            if ((byte & 0xc0) != 0x80)
                refuse("the text is not UTF-8");
            code = code << 6 | (byte & 0x3f);
        }
        const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
        if (overlong || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff)
            refuse("the text is not UTF-8");
        result.append(text_.substr(position_, length));
        position_ += length;
    }

    size_t skip_digits() {
        const size_t start = position_;
        while (peek() >= '0' && peek() <= '9')
            ++position_;
        return position_ - start;
    }

    void parse_number(Json &value) {
        const size_t start = position_;
        const bool negative = accept('-');
        const bool leading_zero = peek() == '0';
        const size_t digits = skip_digits();
        if (digits == 0)
            refuse("a value is missing");
        if (leading_zero && digits > 1)
            refuse("a number begins with a zero");
        const size_t integer_end = position_;
        if (accept('.') && skip_digits() == 0)
            refuse("a number lacks its decimals");
        if (peek() == 'e' || peek() == 'E') {
            ++position_;
            if (peek() == '+' || peek() == '-')
                ++position_;
            if (skip_digits() == 0)
                refuse("a number lacks its exponent");
        }
        value.kind_ = Json::Kind::number;
        const std::string_view number = text_.substr(start, position_ - start);
        if (!negative && integer_end == position_)
            value.is_unsigned_ = read_unsigned(number, value.unsigned_);
        value.number_ = read_double(number);
    }

    static bool read_unsigned(std::string_view digits, uint64_t &value) {
        value = 0;
        for (const char digit : digits) {
            const uint64_t unit = static_cast<uint64_t>(digit - '0');
            if (value > (UINT64_MAX - unit) / 10)
                return false;
            value = value * 10 + unit;
        }
        return true;
    }

    double read_double(std::string_view number) const {
        // A stream with the classic locale: strtod would follow the host program's decimal comma, and not every
        // standard library has from_chars for double.
        std::istringstream stream{std::string(number)};
        stream.imbue(std::locale::classic());
        double value = 0;
        if (!(stream >> value))
            refuse("a number is out of range");
        return value;
    }

    std::string_view text_;
    const std::string &document_;
    size_t position_ = 0;
};

Json Json::parse(std::string_view text, const std::string &document) {
    return JsonParser(text, document).parse();
}

void Json::fail_kind(const char *expected) const {
    fail(V2E_ERROR_BUNDLE, "%s is not %s.", path_.c_str(), expected);
}

bool Json::boolean() const {
    if (kind_ != Kind::boolean)
        fail_kind("true or false");
    return boolean_;
}

double Json::number() const {
    if (kind_ != Kind::number)
        fail_kind("a number");
    return number_;
}

uint64_t Json::unsigned_integer() const {
    if (kind_ != Kind::number || !is_unsigned_)
        fail_kind("a whole number without sign");
    return unsigned_;
}

const std::string &Json::string() const {
    if (kind_ != Kind::string)
        fail_kind("a string");
    return string_;
}

const std::vector<Json> &Json::items() const {
    if (kind_ != Kind::array)
        fail_kind("an array");
    return items_;
}

const std::vector<std::string> &Json::keys() const {
    if (kind_ != Kind::object)
        fail_kind("an object");
    return keys_;
}

bool Json::contains(std::string_view key) const {
    if (kind_ != Kind::object)
        fail_kind("an object");
    return index_.find(key) != index_.end();
}

const Json &Json::at(std::string_view key) const {
    if (kind_ != Kind::object)
        fail_kind("an object");
    const auto found = index_.find(key);
    if (found == index_.end())
        fail(V2E_ERROR_BUNDLE, "%s lacks '%.*s'.", path_.c_str(), static_cast<int>(key.size()), key.data());
    return items_[found->second];
}

} // namespace v2e
