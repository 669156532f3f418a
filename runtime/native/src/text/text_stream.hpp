// Token ids back to text, as they come.
#pragma once

#include "text/tokenizer.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace v2e {

// Turns bytes into whole characters. What is not UTF-8 becomes U+FFFD, one for each longest beginning of a character
// (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts"), as in Python's incremental decoder.
class Utf8Decoder {
  public:
    // Appends the characters that are certain now.
    void push(std::string_view bytes, std::string &text);
    // Appends what is left when no byte follows: U+FFFD for an unfinished character.
    void finish(std::string &text);

  private:
    std::string held_; // the beginning of a character, 3 bytes at most
};

// Turns tokens into text and never splits a character. Joined, the pieces equal what the reference decodes at the end:
// invalid UTF-8 becomes U+FFFD and the literal <|im_end|> is removed.
class TextStream {
  public:
    explicit TextStream(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

    // Takes one token and returns the text that is now certain, often empty inside a character.
    std::string push(int32_t token);
    // Returns what is left when no token follows; the stream can then take another text.
    std::string finish();

  private:
    std::string release(std::string_view text);

    Tokenizer tokenizer_;
    Utf8Decoder decoder_;
    std::string held_; // what may be the beginning of <|im_end|>
};

} // namespace v2e
