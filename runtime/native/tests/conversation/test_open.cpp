// Opening a bundle: what is checked, remembered and refused.
#include "tests/conversation/nano.hpp"

#include <filesystem>
#include <fstream>
#include <string>

namespace fs = std::filesystem;

namespace {

// A copy of the bundle, which goes with it.
class Copy {
  public:
    Copy() : path_(fs::temp_directory_path() / ("valley2-copy-" + std::to_string(reinterpret_cast<uintptr_t>(this)))) {
        fs::remove_all(path_);
        fs::create_directories(path_);
        fs::copy(V2E_NANO, path_ / "bundle", fs::copy_options::recursive);
    }
    ~Copy() { fs::remove_all(path_); }
    Copy(const Copy &) = delete;
    Copy &operator=(const Copy &) = delete;

    fs::path bundle() const { return path_ / "bundle"; }
    std::string record() const { return (path_ / "data" / "verified_files.json").string(); }

    void change_byte(const char *file) const {
        std::fstream stream(bundle() / file, std::ios::in | std::ios::out | std::ios::binary);
        stream.seekg(-1, std::ios::end);
        const int last = stream.get();
        stream.seekp(-1, std::ios::end);
        stream.put(static_cast<char>(last ^ 1));
    }

  private:
    fs::path path_;
};

v2e_status open_copy(const Copy &copy, uint32_t check, v2e_event_callback callback = nullptr,
                     void *user_data = nullptr) {
    auto options = nano_options();
    const std::string record = copy.record();
    options.check = check;
    options.verified_files = record.c_str();
    options.callback = callback;
    options.user_data = user_data;
    v2e_model *model = nullptr;
    const v2e_status status = v2e_model_open(copy.bundle().string().c_str(), &options, &model);
    v2e_model_close(model);
    return status;
}

bool said(const char *part) {
    return std::string(v2e_last_error()).find(part) != std::string::npos;
}

} // namespace

TEST_CASE("the check is remembered, and a changed file is found") {
    const Copy copy;
    const auto count = [](const v2e_event *event, void *calls) {
        *static_cast<int *>(calls) += event->kind == V2E_EVENT_CHECK;
        return 0;
    };
    int first = 0, second = 0;
    REQUIRE_MESSAGE(open_copy(copy, V2E_CHECK_QUICK, count, &first) == V2E_OK, v2e_last_error());
    CHECK(fs::exists(copy.record()));
    REQUIRE(open_copy(copy, V2E_CHECK_QUICK, count, &second) == V2E_OK);
    CHECK(second < first); // a call for each file, not for each of its pieces
    copy.change_byte("vision/eagle.safetensors");
    CHECK(open_copy(copy, V2E_CHECK_QUICK) == V2E_ERROR_BUNDLE);
    CHECK(said("is damaged"));
    CHECK(open_copy(copy, V2E_CHECK_SIZES) == V2E_OK);
}

TEST_CASE("bad bundles are refused by a sentence") {
    const Copy copy;
    std::ofstream(copy.bundle() / "vision" / "stranger.bin") << "x";
    CHECK(open_copy(copy, V2E_CHECK_FULL) == V2E_ERROR_BUNDLE);
    CHECK(said("does not list"));
    fs::remove(copy.bundle() / "vision" / "stranger.bin");
    CHECK(open_copy(copy, V2E_CHECK_FULL) == V2E_OK);
    std::ofstream(copy.bundle() / "vision" / "siglip.safetensors", std::ios::app) << "x";
    CHECK(open_copy(copy, V2E_CHECK_QUICK) == V2E_ERROR_BUNDLE);
    CHECK(said("bytes instead of"));
    fs::remove(copy.bundle() / "vision" / "siglip.safetensors");
    CHECK(open_copy(copy, V2E_CHECK_QUICK) == V2E_ERROR_BUNDLE);
    CHECK(said("is missing"));
    std::ofstream(copy.bundle() / "valley2.json") << "{\"format\":\"valley2-bundle\",\"format_version\":9}";
    CHECK(open_copy(copy, V2E_CHECK_QUICK) == V2E_ERROR_BUNDLE);
    CHECK(said("a newer release"));
    fs::remove(copy.bundle() / "valley2.json");
    CHECK(open_copy(copy, V2E_CHECK_QUICK) == V2E_ERROR_BUNDLE);
    CHECK(said("is not a bundle"));
    v2e_model *model = nullptr;
    CHECK(v2e_model_open("/no/such/bundle", nullptr, &model) == V2E_ERROR_BUNDLE);
    CHECK(said("is not a directory"));
}

TEST_CASE("opening can be cancelled while it checks") {
    const Copy copy;
    const auto refuse = [](const v2e_event *, void *) { return 1; };
    CHECK(open_copy(copy, V2E_CHECK_FULL, refuse) == V2E_ERROR_CANCELLED);
    v2e_cancel *cancel = nullptr;
    REQUIRE(v2e_cancel_create(&cancel) == V2E_OK);
    v2e_cancel_set(cancel);
    auto options = nano_options();
    options.cancel = cancel;
    v2e_model *model = nullptr;
    CHECK(v2e_model_open(V2E_NANO, &options, &model) == V2E_ERROR_CANCELLED);
    v2e_cancel_destroy(cancel);
}

TEST_CASE("a model says what it is") {
    const auto model = open_nano();
    auto about = sized<v2e_model_description>();
    REQUIRE(v2e_model_describe(model.get(), &about) == V2E_OK);
    CHECK(about.max_context == 4096);
    CHECK(about.has_eagle == 1);
    CHECK(about.threads == 2);
    CHECK(about.device == V2E_DEVICE_CPU);
    CHECK(std::string(about.identity).size() == 64);
    v2e_model_trim(model.get());
}
