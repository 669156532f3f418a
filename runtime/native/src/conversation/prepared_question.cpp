#include "conversation/prepared_question.hpp"

#include "base/error.hpp"
#include "conversation/geometry_request.hpp"
#include "conversation/model.hpp"
#include "plan/context_room.hpp"
#include "text/prompt.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace v2e {
namespace {

constexpr uint32_t BLACK_PICTURE_SIDE = 3; // pixels: what the reference shows the model when there is no picture

// The tags of the four steps, which the model writes as control tokens.
constexpr std::array<std::string_view, 8> STEP_TAGS = {"<SUMMARY>",   "</SUMMARY>",   "<CAPTION>",    "</CAPTION>",
                                                       "<REASONING>", "</REASONING>", "<CONCLUSION>", "</CONCLUSION>"};

SharedPicture black_picture() {
    constexpr size_t BYTES = size_t{BLACK_PICTURE_SIDE} * BLACK_PICTURE_SIDE * 3;
    PictureHeader header;
    header.kind = V2E_PICTURE_PIXELS;
    header.size = {BLACK_PICTURE_SIDE, BLACK_PICTURE_SIDE};
    return std::make_shared<const Picture>(header, std::make_unique<uint8_t[]>(BYTES));
}

class Preparation {
  public:
    Preparation(const Question &question, const ConversationOptions &options, const Model &model, size_t used,
                const Warn &warn)
        : question_(question), options_(options), model_(model), used_(used), warn_(warn),
          layout_(options.layout(model.wraps_pictures())) {}

    PreparedQuestion run() {
        std::vector<Message> messages = question_.messages;
        if (question_.think.value_or(options_.think))
            messages.back().text = with_thinking(messages.back().text);
        for (Message &message : messages)
            show(message);
        PreparedQuestion prepared;
        prepared.ids = encode(messages, used_ == 0);
        prepared.video = messages.back().video;
        const auto places = static_cast<size_t>(std::count(prepared.ids.begin(), prepared.ids.end(), PICTURE_ID));
        prepared.text_tokens = prepared.ids.size() - places;
        for (const Message &message : messages)
            plan(message, prepared);
        keep_places(places, prepared);
        prepared.last_pictures = std::min(messages.back().pictures.size(), prepared.pictures.size());
        for (const VisionPicture &picture : prepared.planned) {
            prepared.siglip_tokens += picture.geometry.siglip_tokens;
            prepared.eagle_tokens += picture.geometry.eagle_tokens;
            prepared.tiles += picture.geometry.tile_count;
        }
        fresh_text_tokens_ = used_ == 0 ? prepared.text_tokens : count_fresh(messages);
        return prepared;
    }

    uint64_t fresh_text_tokens() const { return fresh_text_tokens_; }

  private:
    // What the reference leaves out, or puts in where there is no picture.
    void show(Message &message) {
        const std::optional<size_t> most = options_.policy.picture_limit();
        if (most && !message.video && message.pictures.size() > *most) {
            warn_("Only the first " + std::to_string(*most) + " of " + std::to_string(message.pictures.size()) +
                  " pictures are used, as the reference does.");
            message.pictures.resize(*most);
        }
        const bool first = used_ == 0 && question_.messages.size() == 1;
        if (message.pictures.empty() && options_.policy.strict && first)
            message.pictures.push_back(black_picture());
    }

    std::vector<int32_t> encode(const std::vector<Message> &messages, bool first) const {
        std::vector<int32_t> ids;
        for (size_t i = 0; i < messages.size(); ++i) {
            const Message &message = messages[i];
            if (message.role == V2E_ROLE_ASSISTANT) {
                encode_given_answer(message.text, ids);
                continue;
            }
            const PromptParts parts =
                i == 0 && first ? first_turn_prompt(message.text, message.pictures.size(),
                                                    question_.system ? question_.system : options_.system, layout_)
                                : next_turn_prompt(message.text, message.pictures.size(), layout_);
            const std::vector<int32_t> turn = encode_prompt(parts, model_.tokenizer(), layout_.strict);
            ids.insert(ids.end(), turn.begin(), turn.end());
        }
        return ids;
    }

    // An answer that was given elsewhere: the tags of the four steps are control tokens, as the model writes them, and
    // nothing else is.
    void encode_given_answer(std::string_view text, std::vector<int32_t> &ids) const {
        const Tokenizer &tokenizer = model_.tokenizer();
        if (layout_.strict) {
            tokenizer.encode_with_controls(text, ids);
            return;
        }
        size_t begin = 0;
        for (size_t place = text.find('<'); place != std::string_view::npos; place = text.find('<', place)) {
            const std::string_view rest = text.substr(place);
            const auto tag = std::find_if(STEP_TAGS.begin(), STEP_TAGS.end(),
                                          [rest](std::string_view one) { return rest.starts_with(one); });
            const std::optional<int32_t> control = tag == STEP_TAGS.end() ? std::nullopt : tokenizer.find_control(*tag);
            if (!control) {
                ++place;
                continue;
            }
            tokenizer.encode_text(text.substr(begin, place - begin), ids);
            ids.push_back(*control);
            begin = place += tag->size();
        }
        tokenizer.encode_text(text.substr(begin), ids);
    }

    void plan(const Message &message, PreparedQuestion &prepared) const {
        if (message.pictures.empty())
            return;
        const size_t count = message.pictures.size();
        const auto options = std::make_shared<const GeometryOptions>(
            options_.policy.geometry_options(model_.pictures(), count, message.video));
        for (size_t i = 0; i < count; ++i) {
            const SharedPicture &picture = message.pictures[i];
            prepared.pictures.push_back(picture);
            prepared.planned.push_back({picture->pixels(), plan_one(*picture, i, count, *options), options});
        }
    }

    v2e_geometry plan_one(const Picture &picture, size_t index, size_t count, const GeometryOptions &options) const {
        const Size size = picture.size();
        if (uint64_t{size.width} * size.height > options_.max_picture_pixels)
            fail(V2E_ERROR_INPUT,
                 "Picture %zu is too large with its %u x %u pixels: pictures may have %llu pixels at "
                 "most.",
                 index + 1, static_cast<unsigned>(size.width), static_cast<unsigned>(size.height),
                 static_cast<unsigned long long>(options_.max_picture_pixels));
        try {
            return plan_picture(size, options);
        } catch (const Failure &failure) {
            if (count == 1)
                throw;
            throw Failure{failure.status, "Picture " + std::to_string(index + 1) + " of " + std::to_string(count) +
                                              ": " + failure.message};
        }
    }

    // Strict alone, where the question's own <image> decide, can have another number of places.
    void keep_places(size_t places, PreparedQuestion &prepared) const {
        const size_t count = prepared.pictures.size();
        if (places > count)
            fail(V2E_ERROR_INPUT, "The question has %zu places for pictures, but there are %zu pictures.", places,
                 count);
        if (places == count)
            return;
        warn_("Only the first " + std::to_string(places) + " of " + std::to_string(count) +
              " pictures have a place in the question.");
        prepared.pictures.resize(places);
        prepared.planned.resize(places);
    }

    uint64_t count_fresh(const std::vector<Message> &messages) const {
        const std::vector<int32_t> ids = encode(messages, true);
        return static_cast<uint64_t>(
            std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id != PICTURE_ID; }));
    }

    const Question &question_;
    const ConversationOptions &options_;
    const Model &model_;
    const size_t used_;
    const Warn &warn_;
    const PromptLayout layout_;
    uint64_t fresh_text_tokens_ = 0;
};

// The pictures of a history come with their own options: only those of a lone turn can be made smaller by the sentence.
void check_room(const PreparedQuestion &prepared, const ConversationOptions &options, const Model &model, size_t used,
                size_t context_length, uint64_t fresh_text_tokens) {
    std::vector<v2e_geometry> pictures;
    for (const VisionPicture &picture : prepared.planned)
        pictures.push_back(picture.geometry);
    const size_t count = std::max<size_t>(pictures.size(), 1);
    const GeometryRequest together(options.policy.geometry_options(model.pictures(), count, prepared.video));
    const GeometryRequest alone(options.policy.geometry_options(model.pictures(), 1, prepared.video));
    v2e_context_question question{};
    question.struct_size = sizeof question;
    question.pictures = pictures.data();
    question.picture_count = pictures.size();
    question.geometry = together.get();
    question.alone = alone.get();
    question.video = prepared.video;
    question.text_tokens = prepared.text_tokens;
    question.fresh_text_tokens = fresh_text_tokens;
    question.context_length = context_length;
    question.used = used;
    question.max_context = model.max_context();
    check_context(question);
    if (prepared.positions() >= context_length - used)
        fail(V2E_ERROR_BUDGET,
             "The conversation needs %llu positions and one for the answer, but only %zu of the "
             "context's %zu are free; leave out earlier messages.",
             static_cast<unsigned long long>(prepared.positions()), context_length - used, context_length);
}

} // namespace

PreparedQuestion prepare_question(const Question &question, const ConversationOptions &options, const Model &model,
                                  size_t used, size_t context_length, const Warn &warn) {
    Preparation preparation(question, options, model, used, warn);
    PreparedQuestion prepared = preparation.run();
    if (prepared.positions() >= context_length - used)
        check_room(prepared, options, model, used, context_length, preparation.fresh_text_tokens());
    return prepared;
}

} // namespace v2e
