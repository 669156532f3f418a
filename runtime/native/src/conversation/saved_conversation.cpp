#include "conversation/saved_conversation.hpp"

#include "base/error.hpp"
#include "base/json_text.hpp"

namespace v2e {
namespace {

constexpr uint64_t VERSION = 1;
constexpr uint64_t MOST_PICTURES = uint64_t{1} << 24;

Turn parse_turn(const Json &json) {
    Turn turn;
    turn.question = json.at("question").string();
    turn.answer = json.at("answer").string();
    const uint64_t pictures = json.at("pictures").unsigned_integer();
    if (pictures > MOST_PICTURES || json.keys().size() != 3)
        fail(V2E_ERROR_BUNDLE, "A turn is not understood.");
    turn.pictures = static_cast<uint32_t>(pictures);
    return turn;
}

} // namespace

std::string SavedConversation::as_note() const {
    std::string note = "{\"version\":" + std::to_string(VERSION) + ",\"options\":" + options.as_json() + ",\"turns\":[";
    for (const Turn &turn : turns) {
        note += note.back() == '[' ? "" : ",";
        note += "{\"question\":" + json_quoted(turn.question) + ",\"pictures\":" + std::to_string(turn.pictures) +
                ",\"answer\":" + json_quoted(turn.answer) + "}";
    }
    return note + "]}";
}

SavedConversation SavedConversation::parse(const std::string &note, const std::string &path) {
    try {
        const Json json = Json::parse(note, "the note of " + path);
        if (json.at("version").unsigned_integer() != VERSION || json.keys().size() != 3)
            fail(V2E_ERROR_BUNDLE, "its version is not known");
        SavedConversation saved;
        saved.options = ConversationOptions::parse(json.at("options"));
        for (const Json &turn : json.at("turns").items())
            saved.turns.push_back(parse_turn(turn));
        return saved;
    } catch (const Failure &failure) {
        fail(V2E_ERROR_INPUT, "%s was not saved by this release of valley2-edge: %s", path.c_str(),
             failure.message.c_str());
    }
}

} // namespace v2e
