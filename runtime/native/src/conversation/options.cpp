#include "conversation/options.hpp"

#include "base/error.hpp"
#include "base/json_text.hpp"
#include "base/utf8.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace v2e {
namespace {

constexpr uint64_t DEFAULT_PICTURE_PIXELS = 100'000'000; // the same two as in Python's picture_limits.py
constexpr uint64_t MOST_PICTURE_PIXELS = 178'956'970;
constexpr uint32_t MOST_EAGLE_TOKENS = 16384;
constexpr size_t MOST_TEXT_CHARACTERS = size_t{1} << 20;

constexpr std::array<const char *, 2> POLICY_NAMES = {"hub", "repo"};                          // as PolicyName
constexpr std::array<const char *, 4> PRESET_NAMES = {"fast", "balanced", "document", "full"}; // as EaglePreset
constexpr std::array<const char *, 4> KV_NAMES = {"auto", "fp16", "fp32", "int8"};             // as v2e_kv_precision
constexpr std::array<const char *, 13> SAVED_KEYS = {"policy",
                                                     "strict",
                                                     "eagle",
                                                     "tiles",
                                                     "eagle_preset",
                                                     "eagle_max_tokens",
                                                     "eagle_min_tokens",
                                                     "max_picture_pixels",
                                                     "system",
                                                     "think",
                                                     "context_length",
                                                     "kv_precision",
                                                     "prefill_chunk"};

void check_enum(const char *name, uint32_t value, uint32_t largest) {
    if (value > largest)
        fail(V2E_ERROR_INPUT, "%s is %u, which the header does not name.", name, static_cast<unsigned>(value));
}

void check_most(const char *name, uint64_t value, uint64_t most) {
    if (value > most)
        fail(V2E_ERROR_INPUT, "%s is %llu; it may be %llu at most.", name, static_cast<unsigned long long>(value),
             static_cast<unsigned long long>(most));
}

void check(const ConversationOptions &options) {
    if (options.system)
        check_text(*options.system, "The system prompt");
    check_enum("kv_precision", options.kv_precision, V2E_KV_INT8);
    check_enum("reuse", options.reuse, V2E_REUSE_OFF);
    check_most("max_picture_pixels", options.max_picture_pixels, MOST_PICTURE_PIXELS);
    check_most("eagle_max_tokens", options.policy.eagle_max_tokens.value_or(1), MOST_EAGLE_TOKENS);
    check_most("eagle_min_tokens", options.policy.eagle_min_tokens.value_or(1), MOST_EAGLE_TOKENS);
    const EagleRange range = options.policy.eagle_tokens(false);
    if (range.least > range.most)
        fail(V2E_ERROR_INPUT, "eagle_min_tokens is %llu, more than the cap of %llu Eagle tokens.",
             static_cast<unsigned long long>(range.least), static_cast<unsigned long long>(range.most));
}

std::optional<uint32_t> nonzero(uint32_t value) {
    return value == 0 ? std::nullopt : std::optional<uint32_t>(value);
}

template <size_t count>
uint32_t place_of(const Json &value, const std::array<const char *, count> &names) {
    const std::string text = value.string();
    const auto found = std::find(names.begin(), names.end(), text);
    if (found == names.end())
        fail(V2E_ERROR_BUNDLE, "'%s' is not known.", shown(text).c_str());
    return static_cast<uint32_t>(found - names.begin());
}

uint32_t number(const Json &value) {
    const uint64_t found = value.unsigned_integer();
    if (found > UINT32_MAX)
        fail(V2E_ERROR_BUNDLE, "A number is too large.");
    return static_cast<uint32_t>(found);
}

std::optional<uint32_t> number_or_null(const Json &value) {
    return value.kind() == Json::Kind::null ? std::nullopt : std::optional<uint32_t>(number(value));
}

std::string or_null(const std::optional<uint32_t> &value) {
    return value ? std::to_string(*value) : "null";
}

const char *truth(bool value) {
    return value ? "true" : "false";
}

} // namespace

void check_text(std::string_view text, const char *what) {
    if (!is_utf8(text))
        fail(V2E_ERROR_INPUT, "%s holds bytes that are no text in UTF-8.", what);
    const auto characters = std::count_if(text.begin(), text.end(),
                                          [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; });
    if (static_cast<size_t>(characters) > MOST_TEXT_CHARACTERS)
        fail(V2E_ERROR_INPUT, "%s has %zu characters, more than any context holds; %zu at most are taken.", what,
             static_cast<size_t>(characters), MOST_TEXT_CHARACTERS);
}

ConversationOptions ConversationOptions::read(const v2e_session_options *pointer) {
    ConversationOptions options;
    options.max_picture_pixels = DEFAULT_PICTURE_PIXELS;
    if (pointer == nullptr)
        return options;
    const v2e_session_options given = read_options(pointer);
    check_enum("policy", given.policy, V2E_POLICY_REPO);
    check_enum("eagle_preset", given.eagle_preset, V2E_EAGLE_FULL);
    if (given.system != nullptr)
        options.system = given.system;
    options.think = given.think != 0;
    options.context_length = given.context_length;
    options.kv_precision = given.kv_precision;
    options.prefill_chunk = given.prefill_chunk;
    options.reuse = given.reuse;
    options.policy.name = given.policy == V2E_POLICY_REPO ? PolicyName::repo : PolicyName::hub;
    options.policy.strict = given.strict != 0;
    options.policy.eagle = given.no_eagle == 0;
    options.policy.tiles = given.no_tiles == 0;
    if (given.eagle_preset != V2E_EAGLE_AUTO)
        options.policy.preset = static_cast<EaglePreset>(given.eagle_preset - V2E_EAGLE_FAST);
    options.policy.eagle_max_tokens = nonzero(given.eagle_max_tokens);
    options.policy.eagle_min_tokens = nonzero(given.eagle_min_tokens);
    if (given.max_picture_pixels != 0)
        options.max_picture_pixels = given.max_picture_pixels;
    check(options);
    return options;
}

ConversationOptions ConversationOptions::parse(const Json &saved) {
    for (const std::string &key : saved.keys())
        if (std::none_of(SAVED_KEYS.begin(), SAVED_KEYS.end(), [&](const char *known) { return key == known; }))
            fail(V2E_ERROR_BUNDLE, "options.%s is not known.", shown(key).c_str());
    ConversationOptions options;
    options.policy.name = static_cast<PolicyName>(place_of(saved.at("policy"), POLICY_NAMES));
    options.policy.strict = saved.at("strict").boolean();
    options.policy.eagle = saved.at("eagle").boolean();
    options.policy.tiles = saved.at("tiles").boolean();
    options.policy.preset = static_cast<EaglePreset>(place_of(saved.at("eagle_preset"), PRESET_NAMES));
    options.policy.eagle_max_tokens = number_or_null(saved.at("eagle_max_tokens"));
    options.policy.eagle_min_tokens = number_or_null(saved.at("eagle_min_tokens"));
    options.max_picture_pixels = saved.at("max_picture_pixels").unsigned_integer();
    if (const Json system = saved.at("system"); system.kind() != Json::Kind::null)
        options.system = system.string();
    options.think = saved.at("think").boolean();
    options.context_length = number(saved.at("context_length"));
    options.kv_precision = place_of(saved.at("kv_precision"), KV_NAMES);
    options.prefill_chunk = number(saved.at("prefill_chunk"));
    options.reuse = V2E_REUSE_OFF; // the file may come from anybody
    check(options);
    return options;
}

v2e_session_options ConversationOptions::as_struct() const {
    v2e_session_options options{};
    options.struct_size = sizeof options;
    options.system = system ? system->c_str() : nullptr;
    options.think = think;
    options.context_length = context_length;
    options.kv_precision = kv_precision;
    options.prefill_chunk = prefill_chunk;
    options.reuse = reuse;
    options.policy = policy.name == PolicyName::repo ? V2E_POLICY_REPO : V2E_POLICY_HUB;
    options.strict = policy.strict;
    options.no_eagle = !policy.eagle;
    options.no_tiles = !policy.tiles;
    options.eagle_preset = V2E_EAGLE_FAST + static_cast<uint32_t>(policy.preset);
    options.eagle_max_tokens = policy.eagle_max_tokens.value_or(0);
    options.eagle_min_tokens = policy.eagle_min_tokens.value_or(0);
    options.max_picture_pixels = max_picture_pixels;
    return options;
}

std::string ConversationOptions::as_json() const {
    return std::string("{\"policy\":\"") + POLICY_NAMES[static_cast<size_t>(policy.name)] +
           "\",\"strict\":" + truth(policy.strict) + ",\"eagle\":" + truth(policy.eagle) +
           ",\"tiles\":" + truth(policy.tiles) + ",\"eagle_preset\":\"" +
           PRESET_NAMES[static_cast<size_t>(policy.preset)] +
           "\",\"eagle_max_tokens\":" + or_null(policy.eagle_max_tokens) +
           ",\"eagle_min_tokens\":" + or_null(policy.eagle_min_tokens) +
           ",\"max_picture_pixels\":" + std::to_string(max_picture_pixels) +
           ",\"system\":" + (system ? json_quoted(*system) : "null") + ",\"think\":" + truth(think) +
           ",\"context_length\":" + std::to_string(context_length) + ",\"kv_precision\":\"" + KV_NAMES[kv_precision] +
           "\",\"prefill_chunk\":" + std::to_string(prefill_chunk) + "}";
}

PromptLayout ConversationOptions::layout(bool wrapped) const {
    PromptLayout layout;
    layout.policy = policy.name == PolicyName::repo ? PromptPolicy::repo : PromptPolicy::hub;
    layout.strict = policy.strict;
    layout.wrapped = wrapped;
    return layout;
}

} // namespace v2e
