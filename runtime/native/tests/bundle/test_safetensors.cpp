// The safetensors reader refuses each kind of malformed file, in a sentence of its own.
#include "bundle/safetensors.hpp"
#include "tests/check.hpp"
#include "tests/temporary_file.hpp"

using namespace v2e;

namespace {

void open_bytes(const std::string &bytes) {
    const TemporaryFile file(bytes);
    SafetensorsFile(file.path());
}

void open_parts(const std::string &header, const std::string &data) {
    open_bytes(safetensors_bytes(header, data));
}

} // namespace

TEST_CASE("the safetensors reader reads tensors and metadata") {
    const TemporaryFile file(
        safetensors_bytes(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},)"
                          R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                          R"("empty":{"dtype":"F16","shape":[0,4],"data_offsets":[8,8]}}   )",
                          std::string("\0\0\x80\x3f\0\0\0\x40xyz", 11)));
    const SafetensorsFile tensors(file.path());
    const TensorView &a = tensors.tensor("a");
    CHECK(a.dtype == "F32");
    CHECK(a.bytes == 8);
    CHECK(a.shape == std::vector<uint64_t>{1, 2});
    float values[2];
    std::memcpy(values, a.data, sizeof values);
    CHECK(values[0] == 1.0f);
    CHECK(values[1] == 2.0f);
    CHECK(static_cast<char>(tensors.tensor("b").data[2]) == 'z');
    CHECK(tensors.tensor("empty").bytes == 0);
    CHECK(tensors.metadata().at("format") == "pt");
    CHECK(tensors.contains("a"));
    CHECK(!tensors.contains("c"));
    CHECK(!tensors.contains("__metadata__"));
    CHECK(tensors.mapped_bytes() == std::filesystem::file_size(file.path()));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "lacks the tensor 'c'", tensors.tensor("c"));
}

TEST_CASE("the safetensors reader refuses files that cannot be mapped") {
    CHECK_FAILS(V2E_ERROR_BUNDLE, "/no/such/file", SafetensorsFile("/no/such/file"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "", SafetensorsFile(std::filesystem::temp_directory_path().string()));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is empty", open_bytes(""));
}

TEST_CASE("the safetensors reader refuses a broken header") {
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too short", open_bytes("1234567"));
    const TemporaryFile file(safetensors_bytes("{}    ", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "has a header of 6 bytes, but such a file needs less than 5",
                SafetensorsFile(file.path(), nullptr, 5));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "ends within its header", open_bytes(safetensors_bytes("{}", "", 3)));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "begin with a brace", open_parts("", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "begin with a brace", open_parts(" {}", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not valid JSON", open_parts("{\"a\":}", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not UTF-8", open_parts("{\"\xff\":1}", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "stands twice",
                open_parts(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                           R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})",
                           "x"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not a string", open_parts(R"({"__metadata__":{"a":1}})", ""));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not an object", open_parts(R"({"__metadata__":[]})", ""));
}

TEST_CASE("the safetensors reader refuses broken entries") {
    const auto open_entry = [](const std::string &entry) { open_parts("{\"t\":" + entry + "}", "12345678"); };
    CHECK_FAILS(V2E_ERROR_BUNDLE, "unknown dtype 'F4'",
                open_entry(R"({"dtype":"F4","shape":[8],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "lacks 'dtype'", open_entry(R"({"shape":[8],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "lacks 'shape'", open_entry(R"({"dtype":"U8","data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "lacks 'data_offsets'", open_entry(R"({"dtype":"U8","shape":[8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "unknown field 'x'",
                open_entry(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "whole number", open_entry(R"({"dtype":"U8","shape":[-8],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "whole number", open_entry(R"({"dtype":"U8","shape":[8.0],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "two data offsets", open_entry(R"({"dtype":"U8","shape":[8],"data_offsets":[0]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "outside of the file",
                open_entry(R"({"dtype":"U8","shape":[9],"data_offsets":[0,9]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "outside of the file",
                open_entry(R"({"dtype":"U8","shape":[8],"data_offsets":[8,0]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "disagree with its shape",
                open_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "too many dimensions",
                open_entry(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "overflows",
                open_entry(R"({"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]})"));
}

TEST_CASE("the safetensors reader shows a strange name in short and without control characters") {
    const std::string name = "\\u001b[2J" + std::string(900, 'n');
    CHECK_FAILS(V2E_ERROR_BUNDLE, ("tensor '?[2J" + std::string(76, 'n') + "...' has the unknown").c_str(),
                open_parts("{\"" + name + R"(":{"dtype":"F4","shape":[8],"data_offsets":[0,8]}})", "12345678"));
}

TEST_CASE("the safetensors reader refuses data that the tensors do not cover once") {
    const auto open_two = [](const char *first, const char *second) {
        open_parts(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + first +
                       R"(},"b":{"dtype":"U8","shape":[3],"data_offsets":)" + second + "}}",
                   "12345678");
    };
    CHECK_FAILS(V2E_ERROR_BUNDLE, "overlaps", open_two("[0,4]", "[3,6]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "a hole", open_two("[0,4]", "[5,8]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "a hole", open_two("[4,8]", "[1,4]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "after its last tensor", open_two("[0,4]", "[4,7]"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "after its last tensor", open_parts("{}", "x"));
}
