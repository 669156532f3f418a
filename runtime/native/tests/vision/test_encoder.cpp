// The vision encoder over a backend of this file: what is computed, what is known, who waits, and what ends it.
#include "picture/geometry.hpp"
#include "tests/check.hpp"
#include "valley2_parts.h"
#include "vision/encoder.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace v2e;

namespace {

// A tile of 6 x 6 pixels has 9 patches of 4 channels, then 4 tokens of 5; four patches of Eagle are one token.
constexpr const char *MANIFEST = R"({"format": "valley2-bundle", "format_version": 2, "architecture": {
    "siglip": {"image_size": 6, "patch_size": 2, "hidden_size": 4},
    "projector": {"tokens_per_side": 2, "output_size": 5},
    "eagle": {"patch_size": 14, "spatial_merge_size": 2, "hidden_size": 5}}})";
constexpr size_t HIDDEN = 5;

class Directory {
  public:
    Directory() {
        static std::atomic<unsigned> counter{0};
        path_ = std::filesystem::temp_directory_path() /
                ("valley2_encoder_" + std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()) +
                 std::to_string(counter.fetch_add(1)));
        std::filesystem::create_directory(path_);
        std::ofstream(path_ / "valley2.json") << MANIFEST;
    }
    ~Directory() {
        std::error_code ignored; // a leftover in the temporary directory does not fail a test
        std::filesystem::remove_all(path_, ignored);
    }
    std::string path() const { return path_.string(); }

  private:
    std::filesystem::path path_;
};

// Tokens of the first value that a tile or a patch has; the number of the component is added at each step.
struct FakeDevice {
    std::atomic<bool> waits{false};
    std::atomic<bool> running{false}, cancelled{false};
    v2e_status start_fails = V2E_OK, run_fails = V2E_OK, prepare_fails = V2E_OK;
    uint32_t fails_for = 0; // the component whose runs and preparation fail; 0: all of them
    int starts = 0, stops = 0;
    std::vector<uint32_t> runs;      // components, in the order of their runs
    std::vector<uint64_t> prepared;  // numbers that engines were made ready for
    std::vector<uint32_t> open_ones; // components
    v2e_backend table{};

    struct Engine {
        FakeDevice *device;
        uint32_t component;
    };

    FakeDevice() {
        table.struct_size = sizeof table;
        table.name = "fake";
        table.user_data = this;
        table.open = [](void *self, uint32_t component, void **engine) {
            auto *device = static_cast<FakeDevice *>(self);
            device->open_ones.push_back(component);
            *engine = new Engine{device, component};
            return V2E_OK;
        };
        table.cost = [](void *, const v2e_backend_shape *, v2e_backend_cost *) { return V2E_OK; };
        table.run = [](void *engine, const v2e_backend_run *run) {
            const auto &opened = *static_cast<Engine *>(engine);
            return opened.device->run(opened.component, *run);
        };
        table.cancel = [](void *engine) { static_cast<Engine *>(engine)->device->cancelled.store(true); };
        table.close = [](void *engine) {
            const std::unique_ptr<Engine> opened(static_cast<Engine *>(engine));
            std::erase(opened->device->open_ones, opened->component);
        };
        table.start = [](void *self) {
            auto *device = static_cast<FakeDevice *>(self);
            ++device->starts;
            return device->refuse(device->start_fails, "it is not plugged in");
        };
        table.stop = [](void *self) { ++static_cast<FakeDevice *>(self)->stops; };
        table.prepare = [](void *engine, uint64_t count, v2e_backend_progress progress, void *context) {
            const auto &opened = *static_cast<Engine *>(engine);
            opened.device->prepared.push_back(count);
            if (progress(context, 1, 2) != 0)
                return V2E_ERROR_CANCELLED;
            return opened.device->refuse(opened.device->failing(opened.component, opened.device->prepare_fails),
                                         "no engine takes so many");
        };
    }

    v2e_status failing(uint32_t component, v2e_status status) const {
        return fails_for == 0 || fails_for == component ? status : V2E_OK;
    }
    v2e_status refuse(v2e_status status, const char *sentence) {
        return status == V2E_OK ? V2E_OK : v2e_backend_fail(status, sentence);
    }
    v2e_status run(uint32_t component, const v2e_backend_run &run) {
        runs.push_back(component);
        running.store(true);
        while (waits.load() && !cancelled.load())
            std::this_thread::yield();
        if (cancelled.exchange(false))
            return V2E_ERROR_CANCELLED;
        std::fill_n(run.output, run.output_floats, run.values[0] + static_cast<float>(component));
        return refuse(failing(component, run_fails), "it has no more memory");
    }
};

std::string step_text(VisionStage stage, uint64_t done, uint64_t total) {
    const char *name = stage == VisionStage::siglip ? "siglip" : stage == VisionStage::eagle ? "eagle" : "build";
    return std::string(name) + " " + std::to_string(done) + " of " + std::to_string(total);
}

// A bundle and an encoder of it.
struct Opened {
    explicit Opened(FakeDevice &device, uint64_t cache_bytes = 0, bool keep = false) {
        VisionOptions options;
        options.files.directory = directory.path();
        for (std::string &path : options.files.towers)
            path = directory.path() + "/missing.safetensors";
        options.backend = &device.table;
        options.cache_bytes = cache_bytes;
        options.keep = keep;
        options.trim = [this] { ++trims; };
        encoder = std::make_unique<VisionEncoder>(std::move(options));
        events.notice = [this](const std::string &sentence) {
            notices.push_back(sentence);
            return true;
        };
        events.progress = [this](VisionStage stage, uint64_t done, uint64_t total) {
            steps.push_back(step_text(stage, done, total));
            return true;
        };
    }

    EncodedPictures encode(const std::vector<VisionPicture> &pictures) {
        return encoder->encode(pictures, stop, events);
    }

    Directory directory;
    std::unique_ptr<VisionEncoder> encoder;
    VisionStop stop;
    VisionEvents events;
    std::vector<std::string> notices;
    std::vector<std::string> steps;
    int trims = 0;
};

std::shared_ptr<const GeometryOptions> options(bool eagle) {
    v2e_geometry_options given{};
    given.struct_size = sizeof given;
    given.tile_size = 6;
    given.tokens_per_side = 2;
    given.no_tiles = 1;
    given.no_eagle = eagle ? 0 : 1;
    return std::make_shared<const GeometryOptions>(complete_options(&given));
}

// A picture of one colour, which the first value of a tile tells.
struct Picture {
    explicit Picture(uint8_t colour, bool eagle = true)
        : pixels(3 * 56 * 28, colour), given{pixels.data(), {}, options(eagle)} {
        given.geometry = plan_picture({56, 28}, *given.options);
    }

    std::vector<uint8_t> pixels;
    VisionPicture given;
};

float tile_value(uint8_t colour) {
    return static_cast<float>(colour) * (1.0f / 255.0f) * 2 - 1;
}

} // namespace

TEST_CASE("every picture becomes SigLIP's tokens and then Eagle's, and every step is told") {
    FakeDevice device;
    Opened opened(device);
    const Picture dark(0), light(255);
    const EncodedPictures encoded = opened.encode({dark.given, light.given});
    REQUIRE(encoded.embeddings.size() == 2);
    CHECK(encoded.hits == 0);
    CHECK(!encoded.vocabulary);
    for (size_t i = 0; i < 2; ++i) {
        const PictureEmbeddings &made = *encoded.embeddings[i];
        CHECK(made.tokens == dark.given.geometry.siglip_tokens + dark.given.geometry.eagle_tokens);
        CHECK(made.hidden_size == HIDDEN);
        REQUIRE(made.values.size() == made.tokens * HIDDEN);
        // SigLIP adds 1 and the projector 2.
        CHECK(made.values.front() == doctest::Approx(tile_value(i == 0 ? 0 : 255) + 3));
    }
    CHECK(encoded.embeddings[0]->values.back() != encoded.embeddings[1]->values.back());
    CHECK(device.runs == std::vector<uint32_t>{1, 2, 1, 2, 3, 3});
    std::erase_if(opened.steps, [](const std::string &step) { return step.starts_with("build"); });
    CHECK(opened.steps == std::vector<std::string>{"siglip 0 of 2", "siglip 1 of 2", "siglip 2 of 2", "eagle 0 of 2",
                                                   "eagle 1 of 2", "eagle 2 of 2"});
}

TEST_CASE("towers go after their use, unless they are kept") {
    FakeDevice device;
    const Picture picture(9);
    {
        Opened opened(device);
        std::vector<std::string> loaded;
        opened.events.progress = [&](VisionStage, uint64_t done, uint64_t total) {
            std::string names;
            for (const v2e_component component : {V2E_COMPONENT_SIGLIP, V2E_COMPONENT_PROJECTOR, V2E_COMPONENT_EAGLE})
                names += opened.encoder->is_loaded(component) ? std::string(" ") + component_name(component) : "";
            if (done == total)
                loaded.push_back(names);
            return true;
        };
        opened.encode({picture.given});
        CHECK(loaded == std::vector<std::string>{" siglip projector", " eagle"});
        CHECK(device.open_ones.empty());
        CHECK(device.stops == 2);
        CHECK(opened.trims > 2);
        CHECK(opened.encoder->computed_by(V2E_COMPONENT_EAGLE) == "fake");
    }
    Opened kept(device, 0, true);
    kept.encode({picture.given});
    CHECK(device.open_ones.size() == 3);
    CHECK(kept.trims == 0);
    kept.encoder->release();
    CHECK(device.open_ones.empty());
    kept.encoder->set_keep(false);
    kept.encode({picture.given});
    CHECK(device.open_ones.empty());
}

TEST_CASE("an engine is made ready for the largest picture once") {
    FakeDevice device;
    Opened opened(device, 0, true);
    const Picture picture(9);
    opened.encode({picture.given});
    opened.encode({picture.given});
    CHECK(device.prepared == std::vector<uint64_t>{1, 1, picture.given.geometry.eagle_patches});
}

TEST_CASE("pictures without an Eagle branch do not load Eagle") {
    FakeDevice device;
    Opened opened(device);
    const Picture picture(9, false);
    const EncodedPictures encoded = opened.encode({picture.given});
    CHECK(encoded.embeddings[0]->tokens == picture.given.geometry.siglip_tokens);
    CHECK(opened.encoder->computed_by(V2E_COMPONENT_EAGLE).empty());
    CHECK(opened.encode({}).embeddings.empty());
}

TEST_CASE("a known picture is not computed, and of equal ones one is") {
    FakeDevice device;
    Opened opened(device, uint64_t{1} << 20);
    const Picture one(1), two(2), again(1);
    const EncodedPictures first = opened.encode({one.given, two.given, again.given});
    CHECK(first.hits == 1);
    CHECK(first.embeddings[0] == first.embeddings[2]);
    CHECK(device.runs.size() == 6);
    const Picture three(3);
    const EncodedPictures second = opened.encode({three.given, two.given, one.given});
    CHECK(second.hits == 2);
    CHECK(second.embeddings[1] == first.embeddings[1]);
    CHECK(second.embeddings[2] == first.embeddings[0]);
    CHECK(second.embeddings[0]->values.front() == doctest::Approx(tile_value(3) + 3));
    CHECK(device.runs.size() == 9);
    opened.steps.clear();
    CHECK(opened.encode({one.given}).hits == 1);
    CHECK(opened.steps.empty());
}

TEST_CASE("a cache of 0 bytes computes every picture") {
    FakeDevice device;
    Opened opened(device);
    const Picture one(1), again(1);
    const EncodedPictures encoded = opened.encode({one.given, again.given});
    CHECK(encoded.hits == 0);
    CHECK(device.runs.size() == 6);
    CHECK(opened.encoder->cache().used_bytes() == 0);
}

TEST_CASE("the second of two threads with the same picture waits for the first and computes nothing") {
    FakeDevice device;
    Opened opened(device, uint64_t{1} << 20);
    device.waits = true;
    const Picture picture(5);
    EncodedPictures first, second;
    std::thread one([&] { first = opened.encode({picture.given}); });
    while (!device.running.load())
        std::this_thread::yield();
    std::thread other([&] {
        VisionStop stop;
        second = opened.encoder->encode({picture.given}, stop, {});
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(60)); // it waits; when it does not, it computes as well
    device.waits = false;
    one.join();
    other.join();
    CHECK(first.hits == 0);
    CHECK(second.hits == 1);
    CHECK(second.embeddings[0] == first.embeddings[0]);
    CHECK(device.runs.size() == 3);
}

TEST_CASE("a call that waits for another one can be cancelled, and the other goes on") {
    FakeDevice device;
    Opened opened(device);
    device.waits = true;
    const Picture picture(5);
    EncodedPictures first;
    std::thread one([&] { first = opened.encode({picture.given}); });
    while (!device.running.load())
        std::this_thread::yield();
    VisionStop stop;
    std::thread canceller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        stop.set();
    });
    CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled", opened.encoder->encode({picture.given}, stop, {}));
    canceller.join();
    device.waits = false;
    one.join();
    CHECK(first.embeddings.size() == 1);
    CHECK(device.runs.size() == 3);
}

TEST_CASE("a stop reaches the backend that runs, and the next call is as if nothing had been") {
    FakeDevice device;
    Opened opened(device);
    device.waits = true;
    const Picture picture(5);
    std::thread canceller([&] {
        while (!device.running.load())
            std::this_thread::yield();
        opened.stop.set();
    });
    CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled", opened.encode({picture.given}));
    canceller.join();
    CHECK(device.open_ones.empty());
    device.waits = false;
    CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled", opened.encode({picture.given})); // until it is cleared
    opened.stop.clear();
    CHECK(opened.encode({picture.given}).embeddings.size() == 1);
}

TEST_CASE("a listener ends the call at the step that it refuses") {
    FakeDevice device;
    Opened opened(device);
    const Picture picture(5), other(6);
    for (const VisionStage stage : {VisionStage::siglip, VisionStage::eagle, VisionStage::build}) {
        uint64_t last = 0;
        opened.events.progress = [&](VisionStage told, uint64_t done, uint64_t) {
            last = told == stage ? done : last;
            return told != stage || done != 1;
        };
        CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled", opened.encode({picture.given, other.given}));
        CHECK(last == 1);
        CHECK(device.open_ones.empty());
    }
}

TEST_CASE("a callback cannot use the encoder that calls it") {
    FakeDevice device;
    Opened opened(device);
    const Picture picture(5);
    opened.events.progress = [&](VisionStage, uint64_t, uint64_t) {
        VisionStop stop;
        CHECK_FAILS(V2E_ERROR_INPUT, "callback", opened.encoder->encode({picture.given}, stop, {}));
        CHECK_FAILS(V2E_ERROR_INPUT, "callback", opened.encoder->release());
        return true;
    };
    CHECK(opened.encode({picture.given}).embeddings.size() == 1);
}

TEST_CASE("what a backend cannot compute the core does, and a sentence says so") {
    const Picture picture(5);
    struct Expected {
        const char *what;
        v2e_status FakeDevice::*fails;
        const char *sentence;
    };
    for (const Expected &one :
         {Expected{"start", &FakeDevice::start_fails,
                   "The vision engines run in the core instead of fake: it is not plugged in."},
          Expected{"prepare", &FakeDevice::prepare_fails,
                   "The siglip engine runs in the core instead of fake: no engine takes so many."},
          Expected{"run", &FakeDevice::run_fails,
                   "The siglip engine runs in the core instead of fake: it has no more memory."}}) {
        CAPTURE(one.what);
        FakeDevice device;
        device.*one.fails = V2E_ERROR_ENGINE;
        Opened opened(device);
        // Its file is not there, and that is what the call fails with.
        CHECK_FAILS(V2E_ERROR_BUNDLE, "missing.safetensors", opened.encode({picture.given}));
        REQUIRE(opened.notices.size() == 1);
        CHECK(opened.notices.front() == one.sentence);
        CHECK(device.open_ones.empty());
        CHECK(opened.encoder->engine() == (one.fails == &FakeDevice::start_fails ? "native" : "fake"));
        CHECK_FAILS(V2E_ERROR_BUNDLE, "missing.safetensors", opened.encode({picture.given}));
        CHECK(opened.notices.size() == 1); // once is enough
    }
}

TEST_CASE("any other failure of a backend is the failure of the call") {
    FakeDevice device;
    device.run_fails = V2E_ERROR_BUDGET;
    device.fails_for = V2E_COMPONENT_EAGLE;
    Opened opened(device);
    const Picture picture(5);
    CHECK_FAILS(V2E_ERROR_BUDGET, "it has no more memory", opened.encode({picture.given}));
    CHECK(opened.notices.empty());
    CHECK(device.open_ones.empty());
}

TEST_CASE("a picture that was planned for other towers is refused") {
    FakeDevice device;
    Opened opened(device);
    v2e_geometry_options given{};
    given.struct_size = sizeof given;
    Picture picture(5);
    picture.given.options = std::make_shared<const GeometryOptions>(complete_options(&given)); // tiles of 384 x 384
    picture.given.geometry = plan_picture({56, 28}, *picture.given.options);
    CHECK_FAILS(V2E_ERROR_INPUT, "384 x 384", opened.encode({picture.given}));
    CHECK(device.runs.empty());
}

TEST_CASE("one component runs by itself, with inputs and outputs of its size") {
    FakeDevice device;
    Opened opened(device);
    const std::vector<float> tile(108, 0.5f);
    std::vector<float> features(36);
    const TowerCall call{tile.data(), nullptr, 1, features.data(), {}};
    opened.encoder->run(V2E_COMPONENT_SIGLIP, call, 108, 36, opened.stop, opened.events);
    CHECK(features == std::vector<float>(36, 1.5f));
    CHECK(opened.encoder->is_loaded(V2E_COMPONENT_SIGLIP));
    CHECK_FAILS(V2E_ERROR_INPUT, "takes 108 numbers",
                opened.encoder->run(V2E_COMPONENT_SIGLIP, call, 100, 36, opened.stop, opened.events));
    CHECK_FAILS(V2E_ERROR_INPUT, "gives 36 numbers",
                opened.encoder->run(V2E_COMPONENT_SIGLIP, call, 108, 40, opened.stop, opened.events));
}
