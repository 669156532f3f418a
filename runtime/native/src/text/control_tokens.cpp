#include "text/control_tokens.hpp"

#include "text/unicode.hpp"

#include <algorithm>

namespace v2e {
namespace {

bool has_property(std::string_view text, size_t position, CharacterProperty property) {
    return (character_properties()[character_at(text, position).code] & property) != 0;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
    return (begin == 0 || !has_property(text, character_before(text, begin), PROPERTY_WORD)) &&
           (end == text.size() || !has_property(text, end, PROPERTY_WORD));
}

// Where the spaces begin that end at a place; not before `limit`.
size_t spaces_before(std::string_view text, size_t position, size_t limit) {
    while (position > limit) {
        const size_t previous = character_before(text, position);
        if (!has_property(text, previous, PROPERTY_SPACE))
            break;
        position = previous;
    }
    return position;
}

size_t spaces_behind(std::string_view text, size_t position) {
    while (position < text.size() && has_property(text, position, PROPERTY_SPACE))
        position += character_at(text, position).size;
    return position;
}

} // namespace

ControlMatcher::ControlMatcher(std::span<const ControlToken> tokens, bool normalized) : nodes_(1) {
    for (const bool special : {true, false})
        for (const ControlToken &token : tokens)
            if (token.normalized == normalized && token.special == special)
                tokens_.push_back(token);
    for (uint32_t index = 0; index < tokens_.size(); ++index) {
        std::string buffer;
        const std::string_view content =
            normalized ? normalize_nfc(tokens_[index].content, buffer) : std::string_view(tokens_[index].content);
        uint32_t node = 0;
        for (const char byte : content) {
            uint32_t next = next_node(node, byte);
            if (next == 0) {
                next = static_cast<uint32_t>(nodes_.size());
                nodes_.push_back({byte, 0, nodes_[node].child, 0});
                nodes_[node].child = next;
            }
            node = next;
        }
        begins_[static_cast<unsigned char>(content[0])] = true;
        if (nodes_[node].token == 0)
            nodes_[node].token = index + 1;
    }
}

void ControlMatcher::split(std::string_view text, std::vector<TextPart> &parts) const {
    size_t given = 0;      // bytes of the text that are in the parts
    size_t spaces_end = 0; // where the spaces end that were looked at last: a content may be of spaces itself
    for (size_t position = 0; position < text.size();) {
        const Match match = longest_at(text, position);
        if (match.end == 0) {
            ++position;
            continue;
        }
        position = match.end;
        const ControlToken &token = tokens_[match.token];
        if (token.single_word && !stands_alone(text, match.begin, match.end))
            continue;
        // Spaces that the token before it took are not there for this one.
        const size_t begin = token.lstrip ? std::max(spaces_before(text, match.begin, given), given) : match.begin;
        size_t end = match.end;
        if (token.rstrip)
            end = spaces_end = end < spaces_end ? spaces_end : spaces_behind(text, end);
        if (given < begin)
            parts.push_back({-1, text.substr(given, begin - given)});
        if (begin < end)
            parts.push_back({token.id, text.substr(begin, end - begin)});
        given = end;
    }
    if (given < text.size())
        parts.push_back({-1, text.substr(given)});
}

uint32_t ControlMatcher::next_node(uint32_t node, char byte) const {
    uint32_t child = nodes_[node].child;
    while (child != 0 && nodes_[child].byte != byte)
        child = nodes_[child].sibling;
    return child;
}

ControlMatcher::Match ControlMatcher::longest_at(std::string_view text, size_t begin) const {
    Match match{begin, 0, 0};
    if (!begins_[static_cast<unsigned char>(text[begin])])
        return match;
    uint32_t node = 0;
    for (size_t position = begin; position < text.size(); ++position) {
        node = next_node(node, text[position]);
        if (node == 0)
            break;
        if (nodes_[node].token != 0) {
            match.end = position + 1;
            match.token = nodes_[node].token - 1;
        }
    }
    return match;
}

} // namespace v2e
