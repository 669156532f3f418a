// The functions of valley2_parts.h about the vision encoder.
#include "api/arguments.hpp"
#include "api/decoder_threads.hpp"
#include "api/handles.hpp"
#include "valley2_model_parts.h"
#include "vision/encoder.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

struct v2e_vision {
    std::shared_ptr<v2e::VisionEncoder> encoder;
    bool hears_layers;
};

struct v2e_vision_stop {
    v2e::VisionStop stop;
};

struct v2e_embeddings {
    v2e::SharedEmbeddings embeddings;
};

using namespace v2e;

namespace {

constexpr size_t MOST_PICTURES = 1 << 16; // of a call

VisionOptions options_of(const char *directory, const v2e_vision_options &given) {
    VisionOptions options;
    const std::array<const char *, VISION_COMPONENTS> paths = {given.siglip_path, given.projector_path,
                                                               given.eagle_path};
    const std::array<const v2e_file_stamp *, VISION_COMPONENTS> stamps = {given.siglip_stamp, given.projector_stamp,
                                                                          given.eagle_stamp};
    if (std::all_of(paths.begin(), paths.end(), [](const char *path) { return path == nullptr; }))
        options.files = VisionFiles::of_bundle(directory);
    options.files.directory = directory;
    for (size_t i = 0; i < VISION_COMPONENTS; ++i) {
        if (paths[i] != nullptr)
            options.files.towers[i] = paths[i];
        if (stamps[i] != nullptr)
            options.files.stamps[i] = read_options(stamps[i]);
    }
    options.threads = given.threads;
    options.pool = threads_of(given.threads_of);
    options.isa = given.isa;
    options.backend = given.backend;
    options.keep = given.keep != 0;
    options.cache_bytes = given.cache_bytes;
    if (given.trims != nullptr)
        options.trim = [model = given.trims] { v2e_decoder_trim(model); };
    return options;
}

uint32_t number_of(VisionStage stage) {
    switch (stage) {
    case VisionStage::siglip:
        return V2E_VISION_SIGLIP;
    case VisionStage::eagle:
        return V2E_VISION_EAGLE;
    case VisionStage::build:
        break;
    }
    return V2E_VISION_BUILD;
}

// What a caller's callback hears; all are empty without one.
VisionEvents events_of(v2e_vision_callback callback, void *user_data, bool layers) {
    VisionEvents events;
    if (callback == nullptr)
        return events;
    const auto tell = [callback, user_data](uint32_t kind, uint64_t done, uint64_t total, const char *text) {
        v2e_vision_event event{};
        event.struct_size = sizeof event;
        event.kind = kind;
        event.done = done;
        event.total = total;
        event.text = text;
        return callback(&event, user_data) == 0;
    };
    events.progress = [tell](VisionStage stage, uint64_t done, uint64_t total) {
        return tell(number_of(stage), done, total, nullptr);
    };
    if (layers)
        events.layer = [tell](size_t done, size_t total) { return tell(V2E_VISION_LAYER, done, total, nullptr); };
    events.notice = [tell](const std::string &sentence) { return tell(V2E_VISION_NOTICE, 0, 0, sentence.c_str()); };
    return events;
}

std::vector<VisionPicture> read_pictures(const v2e_vision_picture *given, size_t count) {
    if (count > MOST_PICTURES)
        fail(V2E_ERROR_INPUT, "%zu pictures at once are more than %zu.", count, MOST_PICTURES);
    std::vector<VisionPicture> pictures;
    std::shared_ptr<const GeometryOptions> options;
    for (size_t i = 0; i < count; ++i) {
        const v2e_vision_picture picture = read_options(&given[i]);
        if (given[i].struct_size != sizeof picture)
            fail(V2E_ERROR_INPUT, "pictures[%zu].struct_size is not that of this library.", i);
        require(picture.pixels, "pictures.pixels");
        // The pictures of a question have the same options.
        if (i == 0 || picture.options != given[i - 1].options)
            options = std::make_shared<const GeometryOptions>(complete_options(picture.options));
        pictures.push_back({picture.pixels, plan_picture({picture.width, picture.height}, *options), options});
    }
    return pictures;
}

v2e_vision_use use_of(const EncodedPictures &encoded) {
    v2e_vision_use use{};
    use.hits = encoded.hits;
    use.load_seconds = encoded.times.load;
    use.preprocess_seconds = encoded.times.preprocess;
    use.siglip_seconds = encoded.times.siglip;
    use.projector_seconds = encoded.times.projector;
    use.eagle_seconds = encoded.times.eagle;
    if (encoded.vocabulary) {
        use.has_vocabulary = 1;
        use.dropped_mass = encoded.vocabulary->dropped_mass;
        use.tokens = encoded.vocabulary->tokens;
        use.entries = encoded.vocabulary->entries;
        use.multiplied = encoded.vocabulary->multiplied;
    }
    return use;
}

// As many whole characters as there is room for.
template <size_t Size>
void write_text(const std::string &text, char (&target)[Size]) {
    size_t size = std::min(text.size(), Size - 1);
    while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80)
        --size;
    std::copy_n(text.data(), size, target);
    target[size] = '\0';
}

// The caller's, or one that nobody sets.
VisionStop &stop_of(v2e_vision_stop *given, VisionStop &none) {
    return given == nullptr ? none : given->stop;
}

} // namespace

v2e_status v2e_vision_stop_open(v2e_vision_stop **stop) {
    return guard([&] {
        require(stop, "stop");
        *stop = new v2e_vision_stop{};
    });
}

void v2e_vision_stop_set(v2e_vision_stop *stop) {
    if (stop != nullptr)
        stop->stop.set();
}

void v2e_vision_stop_clear(v2e_vision_stop *stop) {
    if (stop != nullptr)
        stop->stop.clear();
}

void v2e_vision_stop_close(v2e_vision_stop *stop) {
    delete stop;
}

v2e_status v2e_vision_open(const char *bundle_directory, const v2e_vision_options *options, v2e_vision **vision) {
    return guard([&] {
        require(bundle_directory, "bundle_directory");
        require(vision, "vision");
        *vision = nullptr;
        const v2e_vision_options given = read_options(options);
        *vision =
            new v2e_vision{std::make_shared<VisionEncoder>(options_of(bundle_directory, given)), given.layers != 0};
    });
}

v2e_status v2e_model_vision(const v2e_model *model, v2e_vision **vision) {
    return guard([&] {
        require(model, "model");
        require(vision, "vision");
        *vision = new v2e_vision{{model->model, &model->model->vision()}, false};
    });
}

v2e_status v2e_vision_encode(v2e_vision *vision, const v2e_vision_picture *pictures, size_t count,
                             v2e_vision_stop *stop, v2e_vision_callback callback, void *user_data, v2e_vision_use *use,
                             v2e_embeddings **embeddings) {
    return guard([&] {
        require(vision, "vision");
        if (count > 0) {
            require(pictures, "pictures");
            require(embeddings, "embeddings");
        }
        VisionStop none;
        const EncodedPictures encoded = vision->encoder->encode(read_pictures(pictures, count), stop_of(stop, none),
                                                                events_of(callback, user_data, vision->hears_layers));
        if (use != nullptr)
            write_struct(use_of(encoded), use, "use");
        std::vector<std::unique_ptr<v2e_embeddings>> made;
        for (const SharedEmbeddings &one : encoded.embeddings)
            made.push_back(std::make_unique<v2e_embeddings>(v2e_embeddings{one}));
        for (size_t i = 0; i < made.size(); ++i)
            embeddings[i] = made[i].release();
    });
}

v2e_status v2e_vision_run(v2e_vision *vision, uint32_t component, const v2e_tower_input *input, size_t row_floats,
                          float *output, size_t output_floats, v2e_vision_stop *stop, v2e_vision_callback callback,
                          void *user_data) {
    return guard([&] {
        require(vision, "vision");
        if (component < V2E_COMPONENT_SIGLIP || component > V2E_COMPONENT_EAGLE)
            fail(V2E_ERROR_INPUT, "component is %u, which is no vision component.", static_cast<unsigned>(component));
        const v2e_tower_input given = read_options(input);
        require(given.values, "input.values");
        if (!is_aligned(given.positions))
            fail(V2E_ERROR_INPUT, "The argument input.positions is not aligned to the 8 bytes of its values.");
        require(output, "output");
        VisionStop none;
        vision->encoder->run(static_cast<v2e_component>(component),
                             {given.values, given.positions, given.count, output, {}}, row_floats, output_floats,
                             stop_of(stop, none), events_of(callback, user_data, vision->hears_layers));
    });
}

v2e_status v2e_vision_describe(const v2e_vision *vision, v2e_vision_description *description) {
    return guard([&] {
        require(vision, "vision");
        const VisionEncoder &encoder = *vision->encoder;
        v2e_vision_description result{};
        write_text(encoder.engine(), result.engine);
        write_text(encoder.computed_by(V2E_COMPONENT_SIGLIP), result.siglip);
        write_text(encoder.computed_by(V2E_COMPONENT_PROJECTOR), result.projector);
        write_text(encoder.computed_by(V2E_COMPONENT_EAGLE), result.eagle);
        result.siglip_loaded = encoder.is_loaded(V2E_COMPONENT_SIGLIP);
        result.projector_loaded = encoder.is_loaded(V2E_COMPONENT_PROJECTOR);
        result.eagle_loaded = encoder.is_loaded(V2E_COMPONENT_EAGLE);
        result.keeps = encoder.keeps();
        result.cache_bytes = encoder.cache().used_bytes();
        result.cache_budget_bytes = encoder.cache().budget_bytes();
        write_struct(result, description, "description");
    });
}

v2e_status v2e_vision_keep(v2e_vision *vision, uint32_t keep) {
    return guard([&] {
        require(vision, "vision");
        vision->encoder->set_keep(keep != 0);
    });
}

v2e_status v2e_vision_resize_cache(v2e_vision *vision, uint64_t budget_bytes) {
    return guard([&] {
        require(vision, "vision");
        vision->encoder->cache().resize(budget_bytes);
    });
}

v2e_status v2e_vision_clear_cache(v2e_vision *vision) {
    return guard([&] {
        require(vision, "vision");
        vision->encoder->cache().clear();
    });
}

v2e_status v2e_vision_release(v2e_vision *vision) {
    return guard([&] {
        require(vision, "vision");
        vision->encoder->release();
    });
}

void v2e_vision_close(v2e_vision *vision) {
    delete vision;
}

v2e_status v2e_embeddings_read(const v2e_embeddings *embeddings, const float **values, size_t *tokens,
                               size_t *hidden_size) {
    return guard([&] {
        require(embeddings, "embeddings");
        require(values, "values");
        require(tokens, "tokens");
        require(hidden_size, "hidden_size");
        *values = embeddings->embeddings->values.data();
        *tokens = embeddings->embeddings->tokens;
        *hidden_size = embeddings->embeddings->hidden_size;
    });
}

void v2e_embeddings_release(v2e_embeddings *embeddings) {
    delete embeddings;
}
