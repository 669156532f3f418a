// Qwen2.5's tokenizer: NFC, a split into words, and byte-level BPE (arXiv 1508.07909, section 3.2, over bytes). Equal
// to the package `tokenizers` on every text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

struct TokenizerTables;

// Immutable: threads may share it. A copy shares the tables of the original.
class Tokenizer {
  public:
    static constexpr size_t MOST_FILE_BYTES = size_t{64} << 20;
    static constexpr size_t MOST_TEXT_BYTES = size_t{256} << 20;

    // Reads the content of a tokenizer.json. `name` is the file in messages. Fails with V2E_ERROR_BUNDLE when it is no
    // tokenizer of a Qwen2.
    static Tokenizer parse(std::string_view content, const std::string &name);
    // Reads a file, UTF-8: a tokenizer.json.
    static Tokenizer open(const std::string &path);

    // Appends the ids of a text, in which strings that look like control tokens stay ordinary characters. Fails with
    // V2E_ERROR_INPUT, and appends nothing, when the text is not UTF-8 or longer than MOST_TEXT_BYTES.
    void encode_text(std::string_view text, std::vector<int32_t> &ids) const;
    // Likewise as the reference does it: strings of control tokens become control tokens.
    void encode_with_controls(std::string_view text, std::vector<int32_t> &ids) const;

    // The id of a control token, such as <|im_end|>. Fails with V2E_ERROR_BUNDLE when there is no such token.
    int32_t control_id(std::string_view content) const;
    std::optional<int32_t> find_control(std::string_view content) const;

    // The bytes that a token stands for, which are UTF-8 only when joined: a control token's own text; nothing for an
    // id without a token. They live as long as the tokenizer or a copy of it.
    std::string_view token_bytes(int32_t token) const;
    int32_t largest_id() const;
    const std::string &name() const;

  private:
    explicit Tokenizer(std::shared_ptr<const TokenizerTables> tables) : tables_(std::move(tables)) {}

    std::shared_ptr<const TokenizerTables> tables_;
};

} // namespace v2e
