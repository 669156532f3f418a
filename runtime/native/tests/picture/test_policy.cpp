// Which pictures are cut into tiles, and how many tokens of Eagle each may have.
#include "base/json.hpp"
#include "picture/policy.hpp"
#include "tests/check.hpp"

#include <cstdint>
#include <string>
#include <vector>

using namespace v2e;

namespace {

constexpr uint64_t TOKEN = 28 * 28; // pixels

std::string architecture_text(const std::string &picture, const std::string &eagle = "{}") {
    return R"({"siglip": {"image_size": 384}, "projector": {"tokens_per_side": 14}, "eagle": )" + eagle +
           R"(, "picture": )" + picture + "}";
}

PictureArchitecture read(const std::string &text) {
    return PictureArchitecture::read(Json::parse(text, "architecture"));
}

std::string picture_text(const std::string &canvases) {
    return R"({"anyres": true, "only_crop_single_image": false, "max_vision_token": 900, "canvases": )" + canvases +
           "}";
}

} // namespace

TEST_CASE("a preset is a cap, and a frame or one of several pictures has its own") {
    struct Expected {
        EaglePreset preset;
        uint64_t single, several;
    };
    for (const Expected &one :
         {Expected{EaglePreset::fast, 256, 256}, Expected{EaglePreset::balanced, 729, 196},
          Expected{EaglePreset::document, 1280, 1280}, Expected{EaglePreset::full, 16384, 16384}}) {
        PicturePolicy policy;
        policy.preset = one.preset;
        CHECK(policy.eagle_tokens(false).least == 4);
        CHECK(policy.eagle_tokens(false).most == one.single);
        CHECK(policy.eagle_tokens(true).most == one.several);
    }
    CHECK(PicturePolicy().geometry_options({}, 1, false).eagle_max_pixels == 729 * TOKEN);
    CHECK(PicturePolicy().geometry_options({}, 1, true).eagle_max_pixels == 196 * TOKEN);
    CHECK(PicturePolicy().geometry_options({}, 2, false).eagle_max_pixels == 196 * TOKEN);
}

TEST_CASE("a given cap wins over the preset, and a given minimum lifts the preset's cap") {
    PicturePolicy capped;
    capped.preset = EaglePreset::full;
    capped.eagle_max_tokens = 64;
    CHECK(capped.eagle_tokens(true).most == 64);
    capped.eagle_max_tokens = 2; // below the usual minimum
    CHECK(capped.eagle_tokens(false).least == 2);
    PicturePolicy lifted;
    lifted.eagle_min_tokens = 300;
    CHECK(lifted.eagle_tokens(true).most == 300);
    CHECK(lifted.eagle_tokens(false).most == 729);
    CHECK(lifted.geometry_options({}, 1, false).eagle_min_pixels == 300 * TOKEN);
    lifted.eagle_max_tokens = 299;
    CHECK_FAILS(V2E_ERROR_INPUT, "eagle_min_tokens is 300", lifted.geometry_options({}, 1, false));
    lifted.eagle_min_tokens = 0;
    CHECK_FAILS(V2E_ERROR_INPUT, "eagle_min_tokens is 0", lifted.geometry_options({}, 1, false));
}

TEST_CASE("hub cuts a picture that is alone, repo every one") {
    const PictureArchitecture architecture;
    PicturePolicy policy;
    CHECK(policy.geometry_options(architecture, 1, false).tiled);
    CHECK(!policy.geometry_options(architecture, 2, false).tiled);
    policy.name = PolicyName::repo;
    CHECK(policy.geometry_options(architecture, 3, false).tiled);
    policy.tiles = false;
    CHECK(!policy.geometry_options(architecture, 1, false).tiled);
    PictureArchitecture several;
    several.only_crop_single_image = false;
    CHECK(PicturePolicy().geometry_options(several, 3, false).tiled);
    several.anyres = false;
    CHECK(!PicturePolicy().geometry_options(several, 1, false).tiled);
}

TEST_CASE("only strict repo leaves pictures out") {
    PicturePolicy policy;
    CHECK(!policy.picture_limit());
    policy.strict = true;
    CHECK(!policy.picture_limit());
    policy.name = PolicyName::repo;
    CHECK(policy.picture_limit() == 8);
    policy.strict = false;
    CHECK(!policy.picture_limit());
}

TEST_CASE("the Eagle branch is there if the bundle has it and nobody leaves it out") {
    PictureArchitecture architecture;
    PicturePolicy policy;
    CHECK(policy.geometry_options(architecture, 1, false).eagle);
    CHECK(policy.geometry_options(architecture, 1, false).unpad);
    policy.eagle = false;
    CHECK(!policy.geometry_options(architecture, 1, false).eagle);
    CHECK(policy.geometry_options(architecture, 1, false).unpad);
    architecture.has_eagle = false;
    CHECK(!PicturePolicy().geometry_options(architecture, 1, false).eagle);
    CHECK(!PicturePolicy().geometry_options(architecture, 1, false).unpad);
}

TEST_CASE("the manifest says what the architecture is") {
    const PictureArchitecture found = read(architecture_text(picture_text("[[384, 768], [768, 384]]"), "null"));
    CHECK(found.image_size == 384);
    CHECK(found.tokens_per_side == 14);
    CHECK(!found.has_eagle);
    CHECK(found.anyres);
    CHECK(!found.only_crop_single_image);
    CHECK(found.max_vision_token == 900);
    CHECK((found.canvases == std::vector<Size>{{384, 768}, {768, 384}}));
    const GeometryOptions options = PicturePolicy().geometry_options(found, 1, false);
    CHECK((options.canvases == found.canvases));
    CHECK(options.max_vision_token == 900);
}

TEST_CASE("sizes of a manifest that make no sense are refused") {
    for (const char *canvases : {"[[384]]", "[[384, 384, 384]]", "[[0, 384]]", "[[384, 65537]]", "[384]", "7"})
        CHECK_FAILS(V2E_ERROR_BUNDLE, "", read(architecture_text(picture_text(canvases))));
    std::string many = "[[384, 384]";
    for (int i = 0; i < 1024; ++i)
        many += ", [384, 384]";
    CHECK_FAILS(V2E_ERROR_BUNDLE, "1025 canvases", read(architecture_text(picture_text(many + "]"))));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "picture", read(R"({"siglip": {"image_size": 384}})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "max_vision_token",
                read(architecture_text(R"({"anyres": true, "only_crop_single_image": true, "max_vision_token": 0,
                                           "canvases": []})")));
}
