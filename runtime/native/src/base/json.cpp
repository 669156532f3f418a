#include "base/json.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

#include <algorithm>
#include <bit>
#include <locale>
#include <sstream>
#include <utility>

namespace v2e {
namespace {

constexpr uint32_t NONE = UINT32_MAX;
constexpr size_t MOST_NUMBER_BYTES = 128;
constexpr size_t MOST_SHOWN_KEYS = 4; // keys of a path that a message shows

// One value: 24 bytes, because a text from outside decides how many there are.
struct Node {
    uint64_t content = 0;  // the bits of a number; of a string, an array or an object where it begins and its length
    uint32_t parent;       // NONE: it is the document's own
    uint32_t key = 0;      // where the key begins in the texts
    uint16_t key_size = 0; // bytes
    Json::Kind kind = Json::Kind::null;
    bool flag = false; // a boolean's value; a number is a whole one without sign

    uint32_t first() const { return static_cast<uint32_t>(content >> 32); }
    uint32_t size() const { return static_cast<uint32_t>(content); }
    void set_span(size_t first, size_t size) { content = uint64_t{first} << 32 | size; }
};

} // namespace

struct JsonDocument {
    std::string name;
    std::string texts; // keys and strings, one after the other
    std::vector<Node> nodes;
    std::vector<uint32_t> children; // the elements of each array and object side by side, in the order of the text
    std::vector<uint32_t> sorted;   // likewise, those of an object by their keys

    std::string_view key(uint32_t node) const {
        return std::string_view(texts).substr(nodes[node].key, nodes[node].key_size);
    }
};

static_assert(sizeof(Node) + 4 * sizeof(uint32_t) <= Json::VALUE_BYTES, "the header says what a value takes at most");

namespace {

// Recursive descent over the text. Positions in messages are byte offsets.
class JsonParser {
  public:
    JsonParser(std::string_view text, JsonDocument &document) : text_(text), document_(document) {}

    void parse() {
        if (text_.size() > Json::MOST_BYTES)
            fail(V2E_ERROR_BUNDLE, "%s has %zu bytes of JSON; at most %zu are read.", document_.name.c_str(),
                 text_.size(), Json::MOST_BYTES);
        reserve();
        parse_value(NONE, 0);
        skip_space();
        if (position_ != text_.size())
            refuse("something follows the value");
    }

  private:
    // Memory is reserved once: a vector that grows by doubling is there twice while it moves.
    void reserve() {
        const auto begins = [](char byte) { return byte == ',' || byte == '[' || byte == '{'; };
        const auto most = static_cast<size_t>(std::count_if(text_.begin(), text_.end(), begins)) + 1;
        const size_t values = std::min(most, Json::MOST_VALUES);
        document_.texts.reserve(text_.size());
        document_.nodes.reserve(values);
        document_.children.reserve(values);
        document_.sorted.reserve(values);
        open_.reserve(values);
    }

    [[noreturn]] void refuse(const char *reason) const {
        fail(V2E_ERROR_BUNDLE, "%s is not valid JSON: %s at byte %zu.", document_.name.c_str(), reason, position_);
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

    uint32_t parse_value(uint32_t parent, size_t depth) {
        if (depth > Json::MOST_DEPTH)
            refuse("the nesting is too deep");
        if (document_.nodes.size() == Json::MOST_VALUES)
            refuse("there are too many values");
        skip_space();
        const auto node = static_cast<uint32_t>(document_.nodes.size());
        document_.nodes.push_back(Node{.parent = parent});
        Node &value = document_.nodes.back(); // stays there: reserve made room for all
        switch (peek()) {
        case '{':
            value.kind = Json::Kind::object;
            parse_object(node, depth);
            break;
        case '[':
            value.kind = Json::Kind::array;
            parse_array(node, depth);
            break;
        case '"':
            value.kind = Json::Kind::string;
            value.content = parse_string();
            break;
        case 't':
        case 'f':
            value.kind = Json::Kind::boolean;
            value.flag = peek() == 't';
            parse_word(value.flag ? "true" : "false");
            break;
        case 'n':
            parse_word("null");
            break;
        default:
            value.kind = Json::Kind::number;
            parse_number(value);
        }
        return node;
    }

    void parse_word(std::string_view word) {
        if (text_.substr(position_, word.size()) != word)
            refuse("an unknown word stands");
        position_ += word.size();
    }

    void parse_object(uint32_t node, size_t depth) {
        const size_t first = open_.size();
        expect('{', "an object is missing");
        skip_space();
        if (!accept('}')) {
            do {
                skip_space();
                const uint64_t key = parse_string();
                if (static_cast<uint32_t>(key) > Json::MOST_KEY_BYTES)
                    refuse("a key is too long");
                skip_space();
                expect(':', "a colon is missing");
                const uint32_t child = parse_value(node, depth + 1);
                document_.nodes[child].key = static_cast<uint32_t>(key >> 32);
                document_.nodes[child].key_size = static_cast<uint16_t>(key);
                open_.push_back(child);
                skip_space();
            } while (accept(','));
            expect('}', "a comma or a closing brace is missing");
        }
        close(node, first);
    }

    void parse_array(uint32_t node, size_t depth) {
        const size_t first = open_.size();
        expect('[', "an array is missing");
        skip_space();
        if (!accept(']')) {
            do {
                open_.push_back(parse_value(node, depth + 1));
                skip_space();
            } while (accept(','));
            expect(']', "a comma or a closing bracket is missing");
        }
        close(node, first);
    }

    // The values from `first` on are all that the array or object has.
    void close(uint32_t node, size_t first) {
        const auto begin = open_.begin() + static_cast<ptrdiff_t>(first);
        Node &value = document_.nodes[node];
        value.set_span(document_.children.size(), open_.size() - first);
        document_.children.insert(document_.children.end(), begin, open_.end());
        if (value.kind == Json::Kind::object) {
            const auto before = [this](uint32_t a, uint32_t b) { return document_.key(a) < document_.key(b); };
            std::sort(begin, open_.end(), before);
            const auto equal = [this](uint32_t a, uint32_t b) { return document_.key(a) == document_.key(b); };
            const auto twice = std::adjacent_find(begin, open_.end(), equal);
            if (twice != open_.end())
                refuse(("the key '" + shown(document_.key(*twice)) + "' stands twice in the object that ends").c_str());
        }
        document_.sorted.insert(document_.sorted.end(), begin, open_.end());
        open_.erase(begin, open_.end());
    }

    // Where the string begins in the texts, and behind it in the lower half its length.
    uint64_t parse_string() {
        expect('"', "a string is missing");
        std::string &texts = document_.texts;
        const size_t first = texts.size();
        for (;;) {
            if (at_end())
                refuse("a string does not end");
            const auto byte = static_cast<unsigned char>(text_[position_]);
            if (byte == '"') {
                ++position_;
                return uint64_t{first} << 32 | (texts.size() - first);
            }
            if (byte < 0x20)
                refuse("a control character stands in a string");
            if (byte == '\\')
                parse_escape(texts);
            else
                copy_character(texts);
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

    void copy_character(std::string &result) {
        const size_t length = utf8_character(text_.substr(position_));
        if (length == 0)
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

    void parse_number(Node &value) {
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
        const std::string_view number = text_.substr(start, position_ - start);
        if (number.size() > MOST_NUMBER_BYTES)
            refuse("a number has too many digits");
        value.flag = !negative && integer_end == position_ && read_unsigned(number, value.content);
        if (!value.flag)
            value.content = std::bit_cast<uint64_t>(read_double(number));
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
    JsonDocument &document_;
    size_t position_ = 0;
    std::vector<uint32_t> open_; // the values of all arrays and objects that have not ended
};

} // namespace

Json Json::parse(std::string_view text, const std::string &document) {
    auto made = std::make_shared<JsonDocument>();
    made->name = document;
    JsonParser(text, *made).parse();
    return {std::move(made), 0};
}

std::string Json::path() const {
    std::string keys;
    size_t count = 0;
    for (uint32_t node = node_; node != NONE && count <= MOST_SHOWN_KEYS; node = document_->nodes[node].parent) {
        const uint32_t parent = document_->nodes[node].parent;
        if (parent == NONE || document_->nodes[parent].kind != Kind::object)
            continue;
        keys = (count++ == MOST_SHOWN_KEYS ? ": ..." : ": " + shown(document_->key(node))) + keys;
    }
    return document_->name + keys;
}

void Json::require(Kind kind, const char *expected) const {
    if (this->kind() != kind)
        fail(V2E_ERROR_BUNDLE, "%s is not %s.", path().c_str(), expected);
}

Json::Kind Json::kind() const {
    return document_->nodes[node_].kind;
}

bool Json::boolean() const {
    require(Kind::boolean, "true or false");
    return document_->nodes[node_].flag;
}

double Json::number() const {
    require(Kind::number, "a number");
    const Node &node = document_->nodes[node_];
    return node.flag ? static_cast<double>(node.content) : std::bit_cast<double>(node.content);
}

uint64_t Json::unsigned_integer() const {
    constexpr const char *EXPECTED = "a whole number without sign";
    require(Kind::number, EXPECTED);
    const Node &node = document_->nodes[node_];
    if (!node.flag)
        fail(V2E_ERROR_BUNDLE, "%s is not %s.", path().c_str(), EXPECTED);
    return node.content;
}

std::string Json::string() const {
    require(Kind::string, "a string");
    const Node &node = document_->nodes[node_];
    return document_->texts.substr(node.first(), node.size());
}

std::vector<Json> Json::items() const {
    require(Kind::array, "an array");
    const Node &node = document_->nodes[node_];
    std::vector<Json> values;
    values.reserve(node.size());
    for (uint32_t i = 0; i < node.size(); ++i)
        values.push_back({document_, document_->children[node.first() + i]});
    return values;
}

std::vector<std::string> Json::keys() const {
    require(Kind::object, "an object");
    const Node &node = document_->nodes[node_];
    std::vector<std::string> keys;
    keys.reserve(node.size());
    for (uint32_t i = 0; i < node.size(); ++i)
        keys.emplace_back(document_->key(document_->children[node.first() + i]));
    return keys;
}

// NONE: the object has no such key.
uint32_t Json::find(std::string_view key) const {
    require(Kind::object, "an object");
    const Node &node = document_->nodes[node_];
    const auto begin = document_->sorted.begin() + node.first(), end = begin + node.size();
    const auto before = [this](uint32_t child, std::string_view wanted) { return document_->key(child) < wanted; };
    const auto found = std::lower_bound(begin, end, key, before);
    return found != end && document_->key(*found) == key ? *found : NONE;
}

bool Json::contains(std::string_view key) const {
    return find(key) != NONE;
}

Json Json::at(std::string_view key) const {
    const uint32_t found = find(key);
    if (found == NONE)
        fail(V2E_ERROR_BUNDLE, "%s lacks '%s'.", path().c_str(), shown(key).c_str());
    return {document_, found};
}

} // namespace v2e
