#include "text/tokenizer_file.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "text/json_scanner.hpp"
#include "text/json_text.hpp"
#include "text/split.hpp"
#include "text/unicode.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace v2e {
namespace {

constexpr ptrdiff_t MOST_VALUES = 2'000'000; // of a file; Qwen2.5's holds 600,000
constexpr size_t MOST_TOKENS = size_t{1} << 22;
constexpr size_t MOST_CONTROL_BYTES = size_t{1} << 20; // of all control tokens together

// The parts of a file that have but one value, as Hugging Face's library writes them.
const char *const NORMALIZER = R"({"type": "NFC"})";
const char *const BYTE_LEVEL =
    R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})";

// A key of a BPE model and the values that are supported.
struct ModelSetting {
    const char *key;
    const char *values; // an array
};
constexpr ModelSetting MODEL_SETTINGS[] = {{"type", R"(["BPE"])"},
                                           {"dropout", "[null, 0]"},
                                           {"unk_token", "[null]"},
                                           {"fuse_unk", "[false]"},
                                           {"byte_fallback", "[false]"},
                                           {"continuing_subword_prefix", R"([null, ""])"},
                                           {"ignore_merges", "[false, true]"},
                                           {"end_of_word_suffix", R"([null, ""])"}};

// GPT-2's table: printable bytes are written as themselves, the others, in order, as the characters from 256 on.
constexpr size_t CHARACTERS = 256 + 68;
constexpr int16_t NO_BYTE = -1;
constexpr std::array<int16_t, CHARACTERS> byte_of_character() {
    std::array<int16_t, CHARACTERS> table{};
    table.fill(NO_BYTE);
    size_t hidden = 256;
    for (size_t byte = 0; byte < 256; ++byte) {
        const bool printable =
            (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte < 0xad) || (byte >= 0xae && byte < 0x100);
        table[printable ? byte : hidden++] = static_cast<int16_t>(byte);
    }
    return table;
}
constexpr std::array<int16_t, CHARACTERS> BYTE_OF_CHARACTER = byte_of_character();

// Writes the bytes that a token's characters stand for. Returns 1 more than the least character that stands for none,
// or 0.
char32_t spelled_bytes(std::string_view spelling, std::string &bytes) {
    char32_t strange = 0;
    bytes.clear();
    for (size_t position = 0; position < spelling.size();) {
        const Character character = character_at(spelling, position);
        position += character.size;
        const int16_t byte = character.code < CHARACTERS ? BYTE_OF_CHARACTER[character.code] : NO_BYTE;
        const char32_t following = character.code + 1;
        if (byte == NO_BYTE)
            strange = strange == 0 ? following : std::min(strange, following);
        else
            bytes += static_cast<char>(byte);
    }
    return strange;
}

// An id that is not one of the first whole numbers becomes one that none has.
int32_t fitting_id(int64_t id) {
    constexpr int32_t UNFIT = -2;
    return id >= 0 && id < static_cast<int64_t>(MOST_TOKENS) ? static_cast<int32_t>(id) : UNFIT;
}

// The token of a spelling, or NONE.
int32_t find_spelling(const Vocabulary &vocabulary, std::string_view spelling, std::string &bytes) {
    return spelled_bytes(spelling, bytes) == 0 ? vocabulary.find(bytes) : Vocabulary::NONE;
}

class TokenizerReader {
  public:
    TokenizerReader(std::string_view content, const std::string &name) : content_(content), name_(name) {}

    TokenizerDefinition read();

  private:
    [[noreturn]] void refuse(const std::string &reason) const {
        fail(V2E_ERROR_BUNDLE, "%s is not a readable tokenizer definition: %s", name_.c_str(), reason.c_str());
    }
    JsonScanner scanner(std::string_view part) const { return JsonScanner(content_, part, name_); }
    Json value(std::string_view part) const { return Json::parse(part, name_); }
    std::string shown_part(std::string_view part) const;

    void check_text();
    void read_parts();
    void check_model_settings();
    void check_pre_tokenizer() const;
    void read_controls();
    ControlToken read_control(std::string_view part) const;
    void read_vocabulary();
    void read_merges();
    bool read_merge(std::string_view part, std::string &left, std::string &right) const;
    void check_ids();

    std::string_view content_;
    const std::string &name_;
    std::string_view normalizer_ = "null", pre_tokenizer_ = "null";
    std::string_view added_, vocabulary_, merges_; // empty: there is none
    std::vector<JsonMember> model_;
    TokenizerDefinition definition_;
};

TokenizerDefinition TokenizerReader::read() {
    check_text();
    read_parts();
    if (!equal_values(value(normalizer_), Json::parse(NORMALIZER, "NFC")))
        refuse("its normalizer " + shown_part(normalizer_) + " is not NFC");
    check_pre_tokenizer();
    check_model_settings();
    read_controls();
    read_vocabulary();
    read_merges();
    check_ids();
    return std::move(definition_);
}

// A value of any size for a message.
std::string TokenizerReader::shown_part(std::string_view part) const {
    return shown_value(value(part));
}

// Encoding and the number of values, before anything is read.
void TokenizerReader::check_text() {
    const std::string_view start = content_.substr(0, 2);
    if (start == "\xff\xfe" || start == "\xfe\xff" || start.find('\0') != std::string_view::npos)
        fail(V2E_ERROR_BUNDLE, "%s is not UTF-8 but UTF-16 or UTF-32: save it as UTF-8.", name_.c_str());
    if (content_.starts_with("\xef\xbb\xbf"))
        content_.remove_prefix(3);
    if (const size_t end = utf8_prefix(content_); end < content_.size()) {
        const std::string_view before = content_.substr(0, end);
        fail(V2E_ERROR_BUNDLE, "%s, line %zu: the text is not UTF-8: save it as UTF-8.", name_.c_str(),
             static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1);
    }
    const auto begins = [](char byte) { return byte == ',' || byte == '[' || byte == '{'; };
    if (std::count_if(content_.begin(), content_.end(), begins) > MOST_VALUES)
        fail(V2E_ERROR_BUNDLE, "%s holds more than 2,000,000 values, the most that such a file may have.",
             name_.c_str());
}

// Finds the parts that are read; all others are checked to be JSON.
void TokenizerReader::read_parts() {
    JsonScanner whole = scanner(content_);
    if (whole.peek() != '{' && whole.peek() != '\0') {
        value(whole.skip_value());
        fail(V2E_ERROR_BUNDLE, "%s holds no JSON object.", name_.c_str());
    }
    const std::vector<JsonMember> members = whole.members();
    whole.expect_end();
    std::string_view model;
    for (const JsonMember &member : members) {
        if (member.key == "model")
            model = member.value;
        else if (member.key == "added_tokens")
            added_ = member.value;
        else if (member.key == "normalizer")
            normalizer_ = member.value;
        else if (member.key == "pre_tokenizer")
            pre_tokenizer_ = member.value;
        else
            value(member.value);
    }
    if (model.starts_with('{')) {
        JsonScanner scan = scanner(model);
        model_ = scan.members();
    }
    for (const JsonMember &member : model_) {
        if (member.key == "vocab")
            vocabulary_ = member.value;
        else if (member.key == "merges")
            merges_ = member.value;
    }
    if (!vocabulary_.starts_with('{') || (!added_.empty() && !added_.starts_with('[')))
        refuse("it has no vocabulary");
}

void TokenizerReader::check_pre_tokenizer() const {
    const auto refuse_cut = [&] {
        refuse("its pre_tokenizer " + shown_part(pre_tokenizer_) + " does not cut as Qwen2's");
    };
    const Json given = value(pre_tokenizer_);
    const auto has = [](const Json &object, std::initializer_list<const char *> keys) {
        return object.kind() == Json::Kind::object && object.keys().size() == keys.size() &&
               std::all_of(keys.begin(), keys.end(), [&](const char *key) { return object.contains(key); });
    };
    const auto is = [](const Json &found, const std::string &expected) {
        return equal_values(found, Json::parse(expected, "a part of a tokenizer"));
    };
    if (!has(given, {"type", "pretokenizers"}) || !is(given.at("type"), R"("Sequence")") ||
        given.at("pretokenizers").kind() != Json::Kind::array)
        refuse_cut();
    const std::vector<Json> steps = given.at("pretokenizers").items();
    if (steps.size() != 2 || !has(steps[0], {"type", "pattern", "behavior", "invert"}) ||
        !has(steps[0].at("pattern"), {"Regex"}) ||
        !has(steps[1], {"type", "add_prefix_space", "trim_offsets", "use_regex"}))
        refuse_cut();
    const Json pattern = steps[0].at("pattern").at("Regex"), byte_level = Json::parse(BYTE_LEVEL, "ByteLevel");
    bool right = pattern.kind() == Json::Kind::string && pattern.string() == SPLIT_PATTERN;
    right = right && is(steps[0].at("type"), R"("Split")") && is(steps[0].at("behavior"), R"("Isolated")") &&
            is(steps[0].at("invert"), "false");
    for (const char *key : {"type", "add_prefix_space", "use_regex"}) // on trim_offsets no id depends
        right = right && equal_values(steps[1].at(key), byte_level.at(key));
    if (!right)
        refuse_cut();
}

void TokenizerReader::check_model_settings() {
    for (const JsonMember &member : model_) {
        if (member.key == "vocab" || member.key == "merges")
            continue;
        const Json given = value(member.value);
        const auto setting = std::find_if(std::begin(MODEL_SETTINGS), std::end(MODEL_SETTINGS),
                                          [&](const ModelSetting &one) { return one.key == member.key; });
        bool supported = false;
        if (setting != std::end(MODEL_SETTINGS))
            for (const Json &possible : Json::parse(setting->values, setting->key).items())
                supported = supported || equal_values(given, possible);
        if (!supported)
            refuse("model." + shown(member.key) + " = " + shown_value(given) + " is not supported");
        if (member.key == "ignore_merges")
            definition_.words.ignore_merges = equal_values(given, Json::parse("true", "ignore_merges"));
    }
}

void TokenizerReader::read_controls() {
    if (added_.empty())
        return;
    JsonScanner scan = scanner(added_);
    scan.expect('[', "an array is missing");
    size_t bytes = 0;
    if (!scan.accept(']')) {
        do {
            definition_.controls.push_back(read_control(scan.skip_value()));
            bytes += definition_.controls.back().content.size();
            if (bytes > MOST_CONTROL_BYTES)
                refuse("its added tokens have more than " + std::to_string(MOST_CONTROL_BYTES) + " bytes");
        } while (scan.accept(','));
        scan.expect(']', "a comma or a closing bracket is missing");
    }
}

ControlToken TokenizerReader::read_control(std::string_view part) const {
    const Json checked = value(part);
    ControlToken token;
    std::optional<int64_t> id;
    std::vector<JsonMember> members;
    if (checked.kind() == Json::Kind::object)
        members = scanner(part).members();
    for (const JsonMember &member : members) {
        if (member.key == "id")
            id = scanner(member.value).whole_number();
        else if (member.key == "content" && member.value.starts_with('"'))
            scanner(member.value).string(token.content);
    }
    if (token.content.empty() || !id)
        refuse("the added token " + shown_value(checked) + " has no content or no whole number as its id");
    token.id = fitting_id(*id);
    const std::pair<const char *, bool *> flags[] = {{"single_word", &token.single_word},
                                                     {"lstrip", &token.lstrip},
                                                     {"rstrip", &token.rstrip},
                                                     {"normalized", &token.normalized},
                                                     {"special", &token.special}};
    for (const auto &[flag, target] : flags) {
        if (!checked.contains(flag))
            continue;
        if (checked.at(flag).kind() != Json::Kind::boolean)
            refuse("the added token '" + shown(token.content) + "' has a flag that is neither true nor false");
        *target = checked.at(flag).boolean();
    }
    if (token.content.size() > ControlToken::MOST_BYTES)
        refuse("the added token '" + shown(token.content) + "' is longer than " +
               std::to_string(ControlToken::MOST_BYTES) + " bytes");
    return token;
}

void TokenizerReader::read_vocabulary() {
    JsonScanner scan = scanner(vocabulary_);
    scan.expect('{', "an object is missing");
    Vocabulary &vocabulary = definition_.words.vocabulary;
    const auto commas = static_cast<size_t>(std::count(vocabulary_.begin(), vocabulary_.end(), ','));
    vocabulary.reserve(commas + 1, vocabulary_.size());
    std::string spelling, bytes;
    char32_t strange = 0;
    bool whole = !scan.accept('}');
    if (whole) {
        do {
            scan.string(spelling);
            scan.expect(':', "a colon is missing");
            const std::optional<int64_t> id = scan.whole_number();
            whole = whole && id.has_value();
            if (const char32_t found = spelled_bytes(spelling, bytes); found != 0)
                strange = strange == 0 ? found : std::min(strange, found);
            else if (!vocabulary.add(bytes, fitting_id(id.value_or(0))))
                scan.refuse(("the key '" + shown(spelling) + "' stands twice in one object").c_str());
        } while (scan.accept(','));
        scan.expect('}', "a comma or a closing brace is missing");
    }
    if (!whole)
        refuse("a token id is no whole number");
    if (strange != 0) {
        std::string character;
        append_character(strange - 1, character);
        refuse("its vocabulary is not of bytes: it has the character '" + shown(character) + "'");
    }
    for (size_t byte = 0; byte < definition_.words.byte_ids.size(); ++byte) {
        const char one = static_cast<char>(byte);
        definition_.words.byte_ids[byte] = vocabulary.find({&one, 1});
    }
}

// The spellings of the two tokens of a merge; false: it has another form.
bool TokenizerReader::read_merge(std::string_view part, std::string &left, std::string &right) const {
    JsonScanner scan = scanner(part);
    if (scan.peek() == '"') {
        scan.string(left);
        const size_t space = left.find(' ');
        if (space == std::string::npos || left.find(' ', space + 1) != std::string::npos)
            return false;
        right = left.substr(space + 1);
        left.resize(space);
        return true;
    }
    if (!scan.accept('[') || scan.peek() != '"')
        return false;
    scan.string(left);
    if (!scan.accept(',') || scan.peek() != '"')
        return false;
    scan.string(right);
    return scan.accept(']');
}

void TokenizerReader::read_merges() {
    if (!merges_.starts_with('['))
        refuse("it has no merges");
    struct Pair {
        int32_t left, right, product;
    };
    std::vector<Pair> pairs;
    const Vocabulary &vocabulary = definition_.words.vocabulary;
    std::string left, right, bytes;
    JsonScanner scan = scanner(merges_);
    scan.expect('[', "an array is missing");
    if (!scan.accept(']')) {
        do {
            const std::string_view part = scan.skip_value();
            Pair pair{Vocabulary::NONE, Vocabulary::NONE, Vocabulary::NONE};
            if (read_merge(part, left, right))
                pair = {find_spelling(vocabulary, left, bytes), find_spelling(vocabulary, right, bytes),
                        find_spelling(vocabulary, left + right, bytes)};
            if (pair.left == Vocabulary::NONE || pair.right == Vocabulary::NONE || pair.product == Vocabulary::NONE)
                refuse("the merge " + shown_part(part) + " is not of two tokens into a third");
            pairs.push_back(pair);
        } while (scan.accept(','));
        scan.expect(']', "a comma or a closing bracket is missing");
    }
    definition_.words.merges.reserve(pairs.size());
    for (uint32_t rank = 0; rank < pairs.size(); ++rank)
        definition_.words.merges.add(pairs[rank].left, pairs[rank].right, {rank, pairs[rank].product});
}

// Every token is there once, and the ids are all whole numbers from 0 on.
void TokenizerReader::check_ids() {
    const Vocabulary &vocabulary = definition_.words.vocabulary;
    std::vector<std::string_view> contents;
    std::vector<int32_t> ids;
    std::string bytes;
    for (size_t index = 0; index < vocabulary.size(); ++index)
        ids.push_back(vocabulary.id(index));
    for (const ControlToken &control : definition_.controls) {
        contents.push_back(control.content);
        const int32_t known = find_spelling(vocabulary, control.content, bytes);
        if (known == Vocabulary::NONE)
            ids.push_back(control.id);
        else if (known != control.id)
            refuse("a token stands in it twice");
    }
    std::sort(contents.begin(), contents.end());
    if (std::adjacent_find(contents.begin(), contents.end()) != contents.end())
        refuse("a token stands in it twice");
    std::vector<bool> seen(ids.size());
    for (const int32_t id : ids) {
        if (id < 0 || static_cast<size_t>(id) >= seen.size() || seen[static_cast<size_t>(id)])
            refuse("its token ids are not the whole numbers from 0 on, each once, and at most " +
                   std::to_string(MOST_TOKENS));
        seen[static_cast<size_t>(id)] = true;
    }
    definition_.largest_id = static_cast<int32_t>(ids.size()) - 1;
}

} // namespace

TokenizerDefinition read_tokenizer(std::string_view content, const std::string &name) {
    return TokenizerReader(content, name).read();
}

} // namespace v2e
