#include "text/json_scanner.hpp"

#include "base/utf8.hpp"
#include "text/unicode.hpp"

#include <algorithm>

namespace v2e {

JsonScanner::JsonScanner(std::string_view text, std::string_view part, const std::string &document)
    : text_(text), position_(static_cast<size_t>(part.data() - text.data())), end_(position_ + part.size()),
      document_(document) {}

char JsonScanner::peek() {
    skip_space();
    return position_ == end_ ? '\0' : text_[position_];
}

bool JsonScanner::accept(char expected) {
    if (peek() != expected || position_ == end_)
        return false;
    ++position_;
    return true;
}

void JsonScanner::expect(char expected, const char *reason) {
    if (!accept(expected))
        refuse(reason);
}

void JsonScanner::expect_end() {
    skip_space();
    if (position_ != end_)
        refuse("something follows the value");
}

void JsonScanner::string(std::string &value) {
    expect('"', "a string is missing");
    value.clear();
    for (size_t begin = position_; position_ < end_;) {
        const auto byte = static_cast<unsigned char>(text_[position_]);
        if (byte == '"' || byte == '\\') {
            value.append(text_.substr(begin, position_ - begin));
            ++position_;
            if (byte == '"')
                return;
            escape(value);
            begin = position_;
        } else if (byte < 0x20) {
            refuse("a control character stands in a string");
        } else {
            ++position_;
        }
    }
    refuse("a string does not end");
}

std::optional<int64_t> JsonScanner::whole_number() {
    constexpr int64_t MOST = INT64_MAX;
    std::string_view digits = skip_value();
    const bool negative = digits.starts_with('-');
    digits.remove_prefix(negative ? 1 : 0);
    if (digits.empty() || !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }))
        return std::nullopt;
    if (digits.size() > 1 && digits[0] == '0')
        refuse("a number begins with a zero");
    if (digits.size() > MOST_DIGITS)
        refuse("a number has too many digits");
    int64_t value = 0;
    for (const char digit : digits)
        value = value > (MOST - 9) / 10 ? MOST : value * 10 + (digit - '0');
    return negative ? -value : value;
}

std::string_view JsonScanner::skip_value() {
    skip_space();
    const size_t begin = position_;
    size_t depth = 0;
    while (position_ < end_) {
        const char byte = text_[position_];
        if (byte == '"') {
            skip_string();
        } else if (byte == '{' || byte == '[') {
            ++depth;
            ++position_;
        } else if (byte == '}' || byte == ']') {
            if (depth == 0)
                break;
            --depth;
            ++position_;
        } else if (depth == 0 &&
                   (byte == ',' || byte == ':' || byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t')) {
            break;
        } else {
            ++position_;
            continue; // a number or a word goes on
        }
        if (depth == 0)
            break;
    }
    if (depth != 0)
        refuse("an array or an object does not end");
    if (begin == position_)
        refuse("a value is missing");
    return text_.substr(begin, position_ - begin);
}

std::vector<JsonMember> JsonScanner::members() {
    std::vector<JsonMember> found;
    expect('{', "an object is missing");
    if (!accept('}')) {
        do {
            if (found.size() == MOST_MEMBERS)
                refuse("an object has too many keys");
            JsonMember member;
            string(member.key);
            expect(':', "a colon is missing");
            member.value = skip_value();
            found.push_back(std::move(member));
        } while (accept(','));
        expect('}', "a comma or a closing brace is missing");
    }
    std::vector<std::string_view> keys;
    for (const JsonMember &member : found)
        keys.push_back(member.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
        refuse(("the key '" + shown(*twice) + "' stands twice in the object that ends").c_str());
    return found;
}

void JsonScanner::refuse(const char *reason) const {
    fail(V2E_ERROR_BUNDLE, "%s is not readable JSON: %s at byte %zu.", document_.c_str(), reason, position_);
}

void JsonScanner::skip_space() {
    while (position_ < end_ && (text_[position_] == ' ' || text_[position_] == '\n' || text_[position_] == '\r' ||
                                text_[position_] == '\t'))
        ++position_;
}

void JsonScanner::skip_string() {
    for (++position_; position_ < end_; ++position_) {
        if (text_[position_] == '\\')
            ++position_;
        else if (text_[position_] == '"') {
            ++position_;
            return;
        }
    }
    position_ = end_;
    refuse("a string does not end");
}

void JsonScanner::escape(std::string &value) {
    constexpr std::string_view KINDS = "\"\\/bfnrt", MEANINGS = "\"\\/\b\f\n\r\t";
    const char kind = position_ < end_ ? text_[position_] : '\0';
    ++position_;
    if (const size_t place = KINDS.find(kind); place != std::string_view::npos) {
        value += MEANINGS[place];
        return;
    }
    if (kind != 'u')
        refuse("an unknown escape stands in a string");
    const uint32_t first = code_unit();
    if (first < 0xd800 || first >= 0xe000) {
        append_character(first, value);
        return;
    }
    const bool pair =
        first < 0xdc00 && end_ - position_ >= 2 && text_[position_] == '\\' && text_[position_ + 1] == 'u';
    position_ += pair ? 2 : 0;
    const uint32_t second = pair ? code_unit() : 0;
    if (second < 0xdc00 || second >= 0xe000)
        refuse("a text has half of a surrogate pair, which is no character,");
    append_character(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), value);
}

uint32_t JsonScanner::code_unit() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++position_) {
        const char digit = position_ < end_ ? text_[position_] : '\0';
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

} // namespace v2e
