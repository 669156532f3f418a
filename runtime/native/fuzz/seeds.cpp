// FOLDER: writes valid inputs of the targets, from which mutations begin, each into the folder of its target. A seed
// that the library refuses would teach nothing, so those that can be are opened here, and a refusal ends the program.
#include "base/json.hpp"
#include "bundle/safetensors.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/tiny_bundle.hpp"
#include "tests/small_tokenizer.hpp"
#include "text/tokenizer.hpp"

#include <vector>

namespace {

class Seeds {
  public:
    explicit Seeds(std::string folder) : folder_(std::move(folder)) {}

    void write(const char *target, const std::string &name, const std::string &content) const {
        fuzz::write_file(folder_ + "/" + target + "/" + name, content);
    }

  private:
    std::string folder_;
};

void write_json(const Seeds &seeds) {
    const std::string texts[] = {
        fuzz::manifest(true, false), fuzz::decoder_header("int4"),
        R"( [1, -2.5e-3, 18446744073709551615, true, false, null, "\ud83d\ude00\u00e9\n", {}] )",
        "{\"a\":{\"b\":[[[[]]]],\"\xc3\xa9\":\"\\\"\"}}"};
    for (size_t i = 0; i < std::size(texts); ++i) {
        v2e::Json::parse(texts[i], "a seed");
        seeds.write("json", std::to_string(i), texts[i]);
    }
}

void write_safetensors(const Seeds &seeds, const std::string &scratch) {
    const std::string header =
        R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
        R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},)"
        R"("c":{"dtype":"F16","shape":[0,4],"data_offsets":[11,11]}})";
    for (const std::string &text : {header, fuzz::embeddings_header(), std::string("{}")}) {
        const std::string file = fuzz::safetensors(text, "");
        fuzz::write_file(scratch, file);
        v2e::SafetensorsFile opened(scratch);
        seeds.write("safetensors", std::to_string(text.size()), file);
    }
}

void write_plans(const Seeds &seeds, const std::string &bundle) {
    for (const bool native : {false, true})
        for (const bool onnx : {false, true}) {
            fuzz::write_file(bundle + "/valley2.json", fuzz::manifest(native, onnx));
            v2e_memory_options options{};
            options.struct_size = sizeof options;
            options.device = V2E_DEVICE_CPU;
            v2e_memory_plan plan{};
            plan.struct_size = sizeof plan;
            MUST(v2e_plan_memory(bundle.c_str(), &options, &plan) == V2E_OK);
            for (const size_t pictures : {0, 1}) {
                std::string choices(64, '\0');
                choices[16] = static_cast<char>(pictures); // their number, then the sides of the first
                choices[17] = choices[18] = 2;
                choices[19] = 1;
                seeds.write("plan",
                            std::string(native ? "towers" : "graphs") + (onnx ? "-onnx-" : "-native-") +
                                std::to_string(pictures),
                            choices + fuzz::decoder_header("int4") + "\n" + fuzz::manifest(native, onnx));
            }
        }
}

void write_decoders(const Seeds &seeds, const std::string &bundle) {
    for (const char *precision : {"fp32", "fp16", "int8", "int4", "int4-zeros", "nf4"}) {
        fuzz::write_bundle(bundle, precision);
        v2e_decoder_options options{};
        options.struct_size = sizeof options;
        options.threads = 1;
        options.device = V2E_DEVICE_CPU;
        v2e_decoder *model = nullptr;
        if (v2e_decoder_open((bundle + "/decoder").c_str(), &options, &model) != V2E_OK)
            fuzz::stop(__FILE__, __LINE__, v2e_last_error());
        v2e_decoder_close(model);
        const std::string texts = "\n" + fuzz::decoder_header(precision) + "\n" + fuzz::embeddings_header() + "\n";
        seeds.write("decoder", precision, "\x01" + std::string(1, '\0') + texts.substr(1));
        seeds.write("decoder", std::string(precision) + "-int16", "\x02\x02" + texts.substr(1));
    }
}

void write_towers(const Seeds &seeds, const std::string &scratch) {
    for (const char *precision : {"int8", "bf16", "fp32"}) {
        std::vector<std::pair<std::string, std::string>> towers = {{"siglip", fuzz::siglip_header(precision)},
                                                                   {"eagle", fuzz::eagle_header(precision)}};
        for (const char *kind : {"softmax", "st_argmax", "conv_adapter", "mlp_pixel_shuffle"})
            towers.emplace_back(std::string("projector-") + kind, fuzz::projector_header(kind, precision));
        for (const auto &[name, header] : towers) {
            fuzz::write_file(scratch, fuzz::safetensors(header, ""));
            v2e_tower_options options{};
            options.struct_size = sizeof options;
            options.threads = 1;
            v2e_tower *tower = nullptr;
            if (v2e_tower_open(scratch.c_str(), &options, &tower) != V2E_OK)
                fuzz::stop(__FILE__, __LINE__, v2e_last_error());
            v2e_tower_close(tower);
            for (const char isa : {0, 1})
                seeds.write("tower", name + "-" + precision + (isa == 0 ? "" : "-portable"),
                            std::string(1, isa) + std::string(1, '\0') + "\x04" + header + "\n");
        }
    }
}

// A saved session with the question that the target asks, with keys and values that nothing has computed.
std::string session_input(const char *precision, size_t page_bytes, const std::string &choices, size_t length) {
    const std::string count = std::to_string(length), page = std::to_string(page_bytes);
    const size_t keys = 4 * length, note = keys + 16 * length, logits = note + 4, kv = logits + 4 * fuzz::VOCABULARY;
    const auto tensor = [](const char *name, const char *dtype, const std::string &shape, size_t begin, size_t end) {
        return std::string(",\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
               "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
    };
    const std::string header =
        std::string(R"({"__metadata__":{"format":"valley2-session","format_version":"1","identity":"@identity@",)") +
        R"("arithmetic":"@arithmetic@","kv_precision":")" + precision +
        R"(","context_length":"600","prefill_chunk":"256","checksum":"@checksum@"})" +
        tensor("tokens", "I32", count, 0, keys) + tensor("keys", "U64", count + ",2", keys, note) +
        tensor("note", "U8", "4", note, logits) +
        tensor("logits", "F32", std::to_string(fuzz::VOCABULARY), logits, kv) +
        tensor("kv", "U8", (length == 0 ? "0," : "1,") + page, kv, kv + (length == 0 ? 0 : page_bytes)) + "}";
    constexpr int32_t QUESTION[] = {3, 1, 4, 1, 5, 9, 2, 6};
    std::string data(logits, 'n');
    for (size_t i = 0; i < length; ++i) {
        const int32_t token = QUESTION[i % std::size(QUESTION)];
        const uint64_t key[2] = {static_cast<uint64_t>(token), 0};
        std::memcpy(data.data() + 4 * i, &token, sizeof token);
        std::memcpy(data.data() + keys + 16 * i, key, sizeof key);
    }
    return choices + header + "\n" + data;
}

void write_sessions(const Seeds &seeds) {
    constexpr size_t FLOATS = 2 * 256 * 16; // floats of a page: keys and values, positions, channels
    const std::string plain("\0\0\0\0", 4), much("\0\x15\x01\0", 4);
    seeds.write("session", "fp32", session_input("fp32", 4 * FLOATS, plain, 8));
    seeds.write("session", "fp16", session_input("fp16", 2 * FLOATS, much, 5));
    seeds.write("session", "int8", session_input("int8", FLOATS + 2 * 256 * 4, much, 8));
    seeds.write("session", "empty", session_input("fp16", 2 * FLOATS, plain, 0));
}

void write_samplings(const Seeds &seeds) {
    const float options[][4] = {{0, 0, 0, 0}, {1, 0.9f, 0, 0}, {0.7f, 0, 0.05f, 1.3f}, {0, 0, 0, 1.1f}, {2, 1, 1, 1}};
    for (size_t i = 0; i < std::size(options); ++i) {
        std::string input(40, '\0');
        std::memcpy(input.data(), options[i], sizeof options[i]);
        input[16] = static_cast<char>(5 * (i % 2)); // top_k
        input[20] = static_cast<char>(i);
        input[28] = 3;
        for (size_t token = 0; token < 24; ++token) {
            const float logit = static_cast<float>(token * 7 % 24) / 4.0f - 2.0f;
            input.append(reinterpret_cast<const char *>(&logit), sizeof logit);
        }
        seeds.write("sampler", std::to_string(i), input);
    }
}

void write_calls(const Seeds &seeds) {
    // Each call's number in the table of fuzz_calls.cpp, then its arguments.
    const auto call = [](char number, const std::string &arguments) { return number + arguments; };
    const auto zeros = [](size_t count) { return std::string(count, '\0'); };
    const std::string model = call(0, zeros(8)), session = call(2, zeros(6));
    const std::string tokens("\0\0\4", 3), embeddings("\1\0\3", 3), none("\0\0\0", 3);
    const std::string prefill = call(5, tokens + embeddings + none + none + "\2" + zeros(4));
    const std::string generate = call(9, zeros(16)), logits = call(8, std::string("\0\1\0", 3));
    const std::string talk = model + session + prefill + logits + generate;
    seeds.write("calls", "talk", talk + call(11, std::string("\0\2", 2)) + prefill + generate + call(17, zeros(6)));
    seeds.write("calls", "save-and-load", talk + call(12, zeros(3)) + call(13, zeros(7)) + generate);
    seeds.write("calls", "choose-and-embed", call(15, zeros(18)) + model + call(16, std::string("\2\0\0\0", 4)));
    for (const char tower : {0, 1, 2})
        seeds.write("calls", std::string("tower-") + static_cast<char>('0' + tower),
                    call(18, zeros(4) + tower + zeros(1)) + call(19, std::string("\0\1\0\0", 4)) +
                        call(20, std::string("\0\0\0\4\0\0", 6)));
    seeds.write("calls", "plan", call(22, zeros(7)));
}

void write_tokenizers(const Seeds &seeds) {
    using namespace v2e::small;
    const std::string few = R"({"a":0,"b":1,"ab":2,"aab":3})";
    const std::string definitions[] = {tokenizer_json(), tokenizer_json(few, R"([["a","b"],"a ab"])", "[]"),
                                       tokenizer_json(few, "[]", R"([{"id":4,"content":"\u00e9 ","lstrip":true}])")};
    for (size_t i = 0; i < std::size(definitions); ++i) {
        v2e::Tokenizer::parse(definitions[i], "a seed");
        seeds.write("tokenizer", std::to_string(i), definitions[i]);
    }
}

void write_texts(const Seeds &seeds) {
    const char *const texts[] = {"the thing  isn't\r\n\n 12 !?", "<|im_end|>\n<image><w> <l> <r> e\xcc\x81!",
                                 "\xea\xb0\x80\xe1\x86\xa8 \xe6\x9d\xb1 \xf0\x9f\x99\x82 q\xcc\x87\xcc\xa3",
                                 "ab\xed\xa0\x80\xff\xf0\x9f"};
    for (size_t i = 0; i < std::size(texts); ++i)
        seeds.write("text", std::to_string(i), std::string(1, static_cast<char>(9 * i)) + "\x02" + texts[i]);
}

void write_pictures(const Seeds &seeds) {
    for (const unsigned side : {1, 9, 40}) {
        std::string input(64, '\0');
        const auto put = [&input](size_t at, unsigned value) { // a side that is not hostile
            input[at] = static_cast<char>(8 * value % 256);
            input[at + 1] = static_cast<char>(8 * value / 256);
        };
        put(0, side);
        put(2, side + 3);
        put(4, 12); // pixels a side of a tile
        input[6] = 1;
        input[7] = 4; // tokens a side
        input[8] = input[9] = input[10] = 1;
        seeds.write("pictures", std::to_string(side), input);
    }
}

// A bitmap of 1 x 1 pixels: what the core reads in every build. The kept corpus has the other kinds.
void write_picture_bytes(const Seeds &seeds) {
    std::string file("BM", 2);
    file.resize(14 + 40 + 4);
    file[10] = 54; // where the pixels begin
    file[14] = 40; // bytes of the header
    file[18] = file[22] = file[26] = 1;
    file[28] = 24; // bits of a pixel
    v2e_picture *picture = nullptr;
    MUST(v2e_picture_decode(file.data(), file.size(), nullptr, &picture) == V2E_OK);
    v2e_picture_close(picture);
    seeds.write("picture_bytes", "bitmap", std::string(2, '\0') + file);
}

} // namespace

int LLVMFuzzerTestOneInput(const uint8_t *, size_t) {
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    const Seeds seeds(argv[1]);
    const fuzz::ScratchDirectory scratch;
    try {
        write_json(seeds);
        write_safetensors(seeds, scratch.file("input.safetensors"));
        write_decoders(seeds, scratch.file("bundle"));
        write_plans(seeds, scratch.file("bundle"));
        write_towers(seeds, scratch.file("tower.safetensors"));
    } catch (const v2e::Failure &failure) {
        fuzz::stop(__FILE__, __LINE__, failure.message.c_str());
    }
    write_sessions(seeds);
    write_samplings(seeds);
    write_calls(seeds);
    write_pictures(seeds);
    write_tokenizers(seeds);
    write_texts(seeds);
    write_picture_bytes(seeds);
    return 0;
}
