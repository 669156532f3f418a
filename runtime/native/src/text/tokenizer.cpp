#include "text/tokenizer.hpp"

#include "base/error.hpp"
#include "base/platform.hpp"
#include "base/utf8.hpp"
#include "text/split.hpp"
#include "text/tokenizer_file.hpp"
#include "text/unicode.hpp"

#include <algorithm>

namespace v2e {

struct TokenizerTables {
    TokenizerTables(std::string file, TokenizerDefinition &&read);

    std::string name;
    BytePairTables words;
    ControlMatcher controls;                                       // that stand in the text as it is
    ControlMatcher normalized_controls;                            // that stand in its NFC
    std::vector<std::string> contents;                             // of the control tokens
    std::vector<std::pair<std::string_view, int32_t>> control_ids; // in the order of their contents
    std::vector<std::string_view> token_bytes;                     // of every id
};

TokenizerTables::TokenizerTables(std::string file, TokenizerDefinition &&read)
    : name(std::move(file)), words(std::move(read.words)), controls(read.controls, false),
      normalized_controls(read.controls, true) {
    token_bytes.resize(static_cast<size_t>(read.largest_id) + 1);
    for (size_t index = 0; index < words.vocabulary.size(); ++index)
        token_bytes[static_cast<size_t>(words.vocabulary.id(index))] = words.vocabulary.bytes(index);
    for (const ControlToken &control : read.controls)
        contents.push_back(control.content);
    for (size_t index = 0; index < contents.size(); ++index) {
        token_bytes[static_cast<size_t>(read.controls[index].id)] = contents[index];
        control_ids.emplace_back(contents[index], read.controls[index].id);
    }
    std::sort(control_ids.begin(), control_ids.end());
}

namespace {

void require_text(std::string_view text) {
    if (text.size() > Tokenizer::MOST_TEXT_BYTES)
        fail(V2E_ERROR_INPUT, "The text has %zu bytes; at most %zu are encoded.", text.size(),
             Tokenizer::MOST_TEXT_BYTES);
    if (const size_t end = utf8_prefix(text); end < text.size())
        fail(V2E_ERROR_INPUT, "The text is not UTF-8 at byte %zu.", end);
}

// Appends the ids of a text in NFC without control tokens.
void encode_words(std::string_view text, WordEncoder &encoder, std::vector<int32_t> &ids) {
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = next_word(text, begin);
        encoder.encode(text.substr(begin, end - begin), ids);
        begin = end;
    }
}

} // namespace

Tokenizer Tokenizer::parse(std::string_view content, const std::string &name) {
    if (content.size() > MOST_FILE_BYTES)
        fail(V2E_ERROR_BUNDLE, "%s is larger than 67,108,864 bytes, the most that such a file may have.", name.c_str());
    return Tokenizer(std::make_shared<const TokenizerTables>(name, read_tokenizer(content, name)));
}

Tokenizer Tokenizer::open(const std::string &path) {
    const MappedFile file(path);
    Tokenizer tokenizer = parse({reinterpret_cast<const char *>(file.data()), file.size()}, path);
    if (file.changed())
        fail(V2E_ERROR_BUNDLE, "%s changed while it was read; try again when nothing writes to it.", path.c_str());
    return tokenizer;
}

void Tokenizer::encode_text(std::string_view text, std::vector<int32_t> &ids) const {
    require_text(text);
    std::string buffer;
    WordEncoder encoder(tables_->words, text.size());
    encode_words(normalize_nfc(text, buffer), encoder, ids);
}

void Tokenizer::encode_with_controls(std::string_view text, std::vector<int32_t> &ids) const {
    require_text(text);
    std::string buffer;
    WordEncoder encoder(tables_->words, text.size());
    std::vector<TextPart> parts, inner;
    tables_->controls.split(text, parts);
    for (const TextPart &part : parts) {
        if (part.id >= 0) {
            ids.push_back(part.id);
            continue;
        }
        inner.clear();
        tables_->normalized_controls.split(normalize_nfc(part.text, buffer), inner);
        for (const TextPart &piece : inner) {
            if (piece.id >= 0)
                ids.push_back(piece.id);
            else
                encode_words(piece.text, encoder, ids);
        }
    }
}

int32_t Tokenizer::control_id(std::string_view content) const {
    const std::optional<int32_t> found = find_control(content);
    if (!found)
        fail(V2E_ERROR_BUNDLE, "%s has no token %s.", tables_->name.c_str(), shown(content).c_str());
    return *found;
}

std::optional<int32_t> Tokenizer::find_control(std::string_view content) const {
    const auto &known = tables_->control_ids;
    const auto found = std::lower_bound(known.begin(), known.end(), std::pair(content, INT32_MIN));
    return found != known.end() && found->first == content ? std::optional(found->second) : std::nullopt;
}

std::string_view Tokenizer::token_bytes(int32_t token) const {
    const bool known = token >= 0 && static_cast<size_t>(token) < tables_->token_bytes.size();
    return known ? tables_->token_bytes[static_cast<size_t>(token)] : std::string_view();
}

int32_t Tokenizer::largest_id() const {
    return static_cast<int32_t>(tables_->token_bytes.size()) - 1;
}

const std::string &Tokenizer::name() const {
    return tables_->name;
}

} // namespace v2e
