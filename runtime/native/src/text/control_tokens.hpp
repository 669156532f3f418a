// Where control tokens stand in a text, by the rules of `tokenizers` for added tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

struct ControlToken {
    static constexpr size_t MOST_BYTES = 1024;

    std::string content; // UTF-8
    int32_t id = 0;
    bool single_word = false; // it counts only where no letter, digit or mark touches it
    bool lstrip = false;      // it takes the spaces before it
    bool rstrip = false;      // and those behind it
    bool normalized = false;  // its content in NFC is looked for in the text in NFC
    bool special = false;     // of two with one content in NFC the special one counts
};

// A part of a text: a control token, or what lies between two.
struct TextPart {
    int32_t id; // -1: it is no control token
    std::string_view text;
};

// Finds the longest control token at the first place where there is one, then the next behind it.
class ControlMatcher {
  public:
    // The tokens whose `normalized` is as given. Of equal contents the first one counts.
    ControlMatcher(std::span<const ControlToken> tokens, bool normalized);

    // Appends the parts of a text, none of them empty.
    void split(std::string_view text, std::vector<TextPart> &parts) const;

  private:
    // A beginning of contents: the nodes that it goes on to are linked by their siblings.
    struct Node {
        char byte = 0;
        uint32_t child = 0, sibling = 0; // 0: none
        uint32_t token = 0;              // index in the tokens + 1; 0: no content ends here
    };
    struct Match {
        size_t begin, end;
        uint32_t token; // index; the end is 0 where there is no match
    };

    uint32_t next_node(uint32_t node, char byte) const;
    Match longest_at(std::string_view text, size_t begin) const;

    std::vector<Node> nodes_;
    std::array<bool, 256> begins_{}; // whether a content begins with a byte
    std::vector<ControlToken> tokens_;
};

} // namespace v2e
