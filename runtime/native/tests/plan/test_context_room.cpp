// The advice of a full context is followed here, with the geometry's own arithmetic.
#include "plan/context_room.hpp"
#include "plan/picture_plan.hpp"
#include "tests/check.hpp"

#include <random>
#include <string>

using namespace v2e;

namespace {

struct Asked {
    std::vector<v2e_geometry> pictures;
    v2e_geometry_options geometry{}, alone{};
    v2e_context_question question{};

    explicit Asked(std::vector<Size> sizes) {
        for (const Size size : sizes) {
            pictures.push_back({});
            pictures.back().struct_size = sizeof(v2e_geometry);
            pictures.back().width = size.width;
            pictures.back().height = size.height;
        }
        geometry.struct_size = alone.struct_size = sizeof geometry;
        question.struct_size = sizeof question;
        question.text_tokens = question.fresh_text_tokens = 30;
        question.context_length = 2048;
        question.max_context = 32768;
    }

    void check() {
        question.pictures = pictures.data();
        question.picture_count = pictures.size();
        question.geometry = &geometry;
        question.alone = &alone;
        check_context(question);
    }

    std::string refusal() {
        const std::optional<Failure> failure = check::failure_of([&] { check(); });
        return failure ? failure->message : "";
    }

    uint64_t tokens() const { return picture_tokens(pictures.data(), pictures.size(), complete_options(&geometry)); }
};

bool contains(const std::string &text, const char *words) {
    return text.find(words) != std::string::npos;
}

} // namespace

TEST_CASE("a question fits a context to its last position but one") {
    Asked asked({{600, 400}});
    const uint64_t needed = asked.question.text_tokens + asked.tokens() + 1;
    asked.question.context_length = needed;
    CHECK(asked.refusal().empty());
    asked.question.used = 1;
    CHECK(contains(asked.refusal(), "but only "));
    asked.question.used = 0;
    asked.question.context_length = needed - 1;
    CHECK_FAILS(V2E_ERROR_BUDGET, "(30 for text, ", asked.check());
}

TEST_CASE("the advice of a full context loses as little as possible") {
    Asked asked({{3000, 2000}});
    const auto said = [&](uint64_t context) {
        asked.question.max_context = asked.question.context_length = context;
        return asked.refusal();
    };
    // The narrower the context, the more has to go. 30 positions of text, 196 without anything, 64 for an answer.
    const char *order[] = {"--eagle-preset document", "--eagle-preset balanced", "--eagle-preset fast",
                           "--eagle-max-tokens 128",  "--eagle-max-tokens 64",   "--eagle-max-tokens 64 --no-tiles",
                           "--no-eagle --no-tiles"};
    size_t reached = 0;
    for (uint64_t context = 4000; context >= 30 + 196 + 64; --context) {
        const std::string words = said(context);
        while (reached + 1 < std::size(order) && !words.ends_with(std::string("with ") + order[reached] + "."))
            ++reached;
        CHECK_MESSAGE(words.ends_with(std::string("with ") + order[reached] + "."), words);
    }
    CHECK(reached + 1 == std::size(order));
    CHECK(contains(said(30 + 196 + 1), "--no-eagle --no-tiles")); // an answer of one token is better than none
    CHECK(contains(said(30 + 196), "ask a shorter question"));
}

TEST_CASE("following the advice makes a question fit") {
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        std::vector<Size> sizes(1 + random() % 5);
        std::uniform_int_distribution<uint32_t> side(30, 2030);
        for (Size &size : sizes)
            size = {side(random), side(random)};
        Asked asked(sizes);
        asked.geometry.no_tiles = sizes.size() > 1;
        asked.geometry.eagle_max_pixels = asked.alone.eagle_max_pixels = uint64_t{729} * 28 * 28;
        asked.question.context_length = 256 + random() % 3000;
        asked.question.used = random() % 3 == 0 ? random() % 200 : 0;
        const std::string said = asked.refusal();
        if (said.empty())
            continue;
        if (const size_t place = said.find("the first "); place != std::string::npos) {
            Asked fewer = asked;
            fewer.pictures.resize(std::stoul(said.substr(place + 10)));
            if (fewer.pictures.size() == 1)
                fewer.geometry = fewer.alone;
            CHECK_MESSAGE(fewer.refusal().empty(), said);
        }
        if (const size_t place = said.find("--context-length "); place != std::string::npos) {
            Asked longer = asked;
            longer.question.context_length = std::stoul(said.substr(place + 17));
            CHECK_MESSAGE(longer.refusal().empty(), said);
        }
        if (contains(said, "--no-eagle")) {
            Asked without = asked;
            without.geometry.no_eagle = 1;
            without.geometry.no_tiles = contains(said, "--no-tiles") ? 1 : asked.geometry.no_tiles;
            CHECK_MESSAGE(without.refusal().empty(), said);
        }
        if (contains(said, "/reset")) {
            Asked fresh = asked;
            fresh.question.used = 0;
            CHECK_MESSAGE(fresh.refusal().empty(), said);
        }
    }
}

TEST_CASE("frames are named by the option for frames") {
    Asked asked(std::vector<Size>(8, {400, 300}));
    asked.question.video = 1;
    asked.question.context_length = asked.tokens() / 2;
    CHECK(contains(asked.refusal(), "--frames 3"));
}

TEST_CASE("a context longer than the model's is not advised") {
    Asked asked({});
    asked.question.text_tokens = asked.question.fresh_text_tokens = 40000;
    CHECK(asked.refusal().ends_with("are free; ask a shorter question."));
}

TEST_CASE("a full context is found by counters that do not wrap") {
    Asked asked({});
    asked.question.text_tokens = asked.question.fresh_text_tokens = UINT64_MAX;
    asked.question.used = 10;
    CHECK(asked.refusal().ends_with("ask a shorter question."));
    asked.question.text_tokens = 3;
    asked.question.used = UINT64_MAX; // more than there is
    CHECK(contains(asked.refusal(), "only 0 of the context's 2048 are free"));
}

TEST_CASE("the check of a context refuses what it cannot plan") {
    v2e_context_question question{};
    CHECK(v2e_check_context(nullptr) == V2E_ERROR_INPUT);
    CHECK(v2e_check_context(&question) == V2E_ERROR_INPUT);
    question.struct_size = sizeof question;
    question.picture_count = 2;
    CHECK(v2e_check_context(&question) == V2E_ERROR_INPUT);
    v2e_geometry small{};
    small.struct_size = 8;
    question.pictures = &small;
    question.picture_count = 1;
    CHECK(v2e_check_context(&question) == V2E_ERROR_INPUT);
    question.picture_count = 0;
    question.context_length = 2;
    CHECK(v2e_check_context(&question) == V2E_OK);
}
