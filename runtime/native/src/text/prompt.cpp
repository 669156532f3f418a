#include "text/prompt.hpp"

#include "base/error.hpp"

#include <algorithm>
#include <array>
#include <iterator>

namespace v2e {
namespace {

using Kind = PromptPart::Kind;

// What the policies differ in.
struct PolicyTexts {
    std::string_view system;    // the system prompt of a conversation without one
    std::string_view separator; // between two pictures
};
constexpr PolicyTexts HUB_TEXTS{"You are a helpful assistant.", " "};
constexpr PolicyTexts REPO_TEXTS{"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", ""};

const PolicyTexts &texts_of(const PromptLayout &layout) {
    return layout.policy == PromptPolicy::hub ? HUB_TEXTS : REPO_TEXTS;
}

std::string_view name_of(PromptRole role) {
    constexpr std::array<std::string_view, 3> NAMES = {"system", "user", "assistant"};
    return NAMES[static_cast<size_t>(role)];
}

void require_pictures(size_t count) {
    if (count > MOST_PROMPT_PICTURES)
        fail(V2E_ERROR_INPUT, "A conversation has %zu pictures; at most %zu are taken.", count, MOST_PROMPT_PICTURES);
}

// The pieces between the places where a separator stands; one more than there are places.
std::vector<std::string_view> split_text(std::string_view text, std::string_view separator) {
    std::vector<std::string_view> pieces;
    size_t begin = 0;
    for (size_t found; (found = text.find(separator, begin)) != std::string_view::npos;
         begin = found + separator.size())
        pieces.push_back(text.substr(begin, found - begin));
    pieces.push_back(text.substr(begin));
    return pieces;
}

void append_text(PromptParts &parts, std::string_view text) {
    parts.push_back({Kind::text, std::string(text)});
}

void append_control(PromptParts &parts, std::string_view content) {
    parts.push_back({Kind::control, std::string(content)});
}

void append_picture(PromptParts &parts, const PromptLayout &layout) {
    if (layout.wrapped)
        append_control(parts, PICTURE_START);
    parts.push_back({Kind::picture, {}});
    if (layout.wrapped)
        append_control(parts, PICTURE_END);
}

// A text in which strict reads <image> as a picture's place: repo the first ones, hub all.
void append_interpreted(PromptParts &parts, std::string_view text, size_t picture_count, const PromptLayout &layout) {
    if (!layout.strict) {
        append_text(parts, text);
        return;
    }
    const std::vector<std::string_view> pieces = split_text(text, PICTURE_TEXT);
    const size_t places = pieces.size() - 1;
    const size_t limit = layout.policy == PromptPolicy::repo ? std::min(picture_count, places) : places;
    append_text(parts, pieces[0]);
    for (size_t index = 0; index < places; ++index) {
        if (index < limit)
            append_picture(parts, layout);
        append_text(parts, pieces[index + 1]);
    }
}

// A user's text with its pictures in front.
void append_question(PromptParts &parts, std::string_view text, size_t picture_count, const PromptLayout &layout) {
    const std::string_view separator = texts_of(layout).separator;
    if (!layout.strict) {
        for (size_t index = 0; index < picture_count; ++index) {
            if (index > 0)
                append_text(parts, separator);
            append_picture(parts, layout);
        }
        append_text(parts, (picture_count > 0 ? "\n" : "") + std::string(text));
        return;
    }
    std::string placed;
    if (picture_count > 0 && text.find(PICTURE_TEXT) == std::string_view::npos) {
        for (size_t index = 0; index < picture_count; ++index)
            placed.append(index > 0 ? separator : "").append(PICTURE_TEXT);
        placed += '\n';
    }
    append_interpreted(parts, placed.append(text), picture_count, layout);
}

void open_message(PromptParts &parts, PromptRole role) {
    append_control(parts, START_OF_TURN);
    append_text(parts, std::string(name_of(role)) + "\n");
}

void close_message(PromptParts &parts) {
    append_control(parts, END_OF_TURN);
    append_text(parts, "\n");
}

// The reference cuts after every closed message and at every picture and tokenises the pieces one by one.
std::vector<int32_t> encode_rendered(std::string_view text, const Tokenizer &tokenizer) {
    const std::string separator = std::string(END_OF_TURN) + "\n";
    const std::vector<std::string_view> rounds = split_text(text, separator);
    std::vector<int32_t> ids;
    for (size_t index = 0; index < rounds.size(); ++index) {
        if (index > 0 && rounds[index].empty())
            continue; // the reference skips an empty piece, its separator with it
        const std::string message = std::string(rounds[index]) + (index + 1 < rounds.size() ? separator : "");
        const std::vector<std::string_view> pieces = split_text(message, PICTURE_TEXT);
        for (size_t place = 0; place < pieces.size(); ++place) {
            if (place > 0)
                ids.push_back(PICTURE_ID);
            tokenizer.encode_with_controls(pieces[place], ids);
        }
    }
    return ids;
}

} // namespace

PromptParts conversation_prompt(std::span<const PromptMessage> messages, const PromptLayout &layout) {
    const bool given = !messages.empty() && messages[0].role == PromptRole::system;
    const std::span<const PromptMessage> turns = messages.subspan(given ? 1 : 0);
    size_t picture_count = 0;
    for (const PromptMessage &message : messages) {
        require_pictures(message.picture_count);
        require_pictures(picture_count += message.picture_count);
    }
    bool ordered = turns.size() % 2 == 1 && (!given || messages[0].picture_count == 0);
    for (size_t index = 0; index < turns.size(); ++index) {
        const bool user = index % 2 == 0;
        ordered = ordered && turns[index].role == (user ? PromptRole::user : PromptRole::assistant) &&
                  (user || turns[index].picture_count == 0);
    }
    if (!ordered)
        fail(V2E_ERROR_INPUT, "A conversation is user and assistant by turns and ends with the user.");
    PromptParts parts;
    open_message(parts, PromptRole::system);
    // DIFFERS: the repository's chat class loses the caller's system prompt; only strict does so here.
    const bool lost = layout.strict && layout.policy == PromptPolicy::repo;
    append_text(parts, given && !lost ? std::string_view(messages[0].text) : texts_of(layout).system);
    close_message(parts);
    for (size_t index = 0; index < turns.size(); ++index) {
        open_message(parts, turns[index].role);
        if (index == 0 || turns[index].picture_count > 0)
            append_question(parts, turns[index].text, turns[index].picture_count, layout);
        else
            append_interpreted(parts, turns[index].text, picture_count, layout);
        close_message(parts);
    }
    open_message(parts, PromptRole::assistant);
    return parts;
}

PromptParts first_turn_prompt(std::string_view question, size_t picture_count, const std::optional<std::string> &system,
                              const PromptLayout &layout) {
    std::vector<PromptMessage> messages;
    if (system)
        messages.push_back({PromptRole::system, *system, 0});
    messages.push_back({PromptRole::user, std::string(question), picture_count});
    return conversation_prompt(messages, layout);
}

PromptParts next_turn_prompt(std::string_view question, size_t picture_count, const PromptLayout &layout) {
    require_pictures(picture_count);
    PromptParts parts;
    close_message(parts);
    open_message(parts, PromptRole::user);
    append_question(parts, question, picture_count, layout);
    close_message(parts);
    open_message(parts, PromptRole::assistant);
    return parts;
}

std::string with_thinking(std::string_view question) {
    return std::string(question).append(THINK_SUFFIX);
}

std::string render_prompt(std::span<const PromptPart> parts) {
    std::string text;
    for (const PromptPart &part : parts)
        text.append(part.kind == Kind::picture ? PICTURE_TEXT : std::string_view(part.text));
    return text;
}

std::vector<int32_t> encode_prompt(std::span<const PromptPart> parts, const Tokenizer &tokenizer, bool strict) {
    if (strict)
        return encode_rendered(render_prompt(parts), tokenizer);
    std::vector<int32_t> ids;
    std::string run;
    for (const PromptPart &part : parts) {
        if (part.kind == Kind::text) {
            run += part.text; // neighbours are encoded together: a token may span them
            continue;
        }
        tokenizer.encode_text(run, ids);
        run.clear();
        ids.push_back(part.kind == Kind::control ? tokenizer.control_id(part.text) : PICTURE_ID);
    }
    tokenizer.encode_text(run, ids);
    return ids;
}

std::vector<int32_t> encode_answer(std::string_view answer, const Tokenizer &tokenizer, int32_t stop_token) {
    std::vector<int32_t> ids;
    tokenizer.encode_with_controls(answer, ids);
    ids.push_back(stop_token);
    return ids;
}

std::vector<std::span<const int32_t>> split_at_pictures(std::span<const int32_t> ids) {
    std::vector<std::span<const int32_t>> runs;
    for (;;) {
        const auto picture = std::find(ids.begin(), ids.end(), PICTURE_ID);
        const auto size = static_cast<size_t>(picture - ids.begin());
        runs.push_back(ids.first(size));
        if (picture == ids.end())
            return runs;
        ids = ids.subspan(size + 1);
    }
}

} // namespace v2e
