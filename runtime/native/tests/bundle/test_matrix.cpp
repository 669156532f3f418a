// Loading a matrix: every disagreement between the metadata and the tensors is an error that names it.
#include "bundle/matrix.hpp"
#include "tests/check.hpp"
#include "tests/temporary_file.hpp"

using namespace v2e;

namespace {

// Two panels of int4 (rows 100, columns 64, groups of 32, asymmetric) with a bias, data beginning at a multiple of 64.
struct MatrixFile {
    std::string weight_dtype = "U8";
    std::string weight_shape = "[2,8,64,4]";
    size_t shift = 0; // bytes by which the data misses the alignment
    std::string description = R"({"precision":"int4","rows":100,"columns":64,"group_size":32,"symmetric":false})";

    void load() const { (void)read(); }

    Matrix read() const {
        std::string header = R"({"m.weight":{"dtype":")" + weight_dtype + R"(","shape":)" + weight_shape +
                             R"(,"data_offsets":[0,4096]},"m.scales":{"dtype":"F16","shape":[2,2,64],"data_offsets":)"
                             R"([4096,4608]},"m.zeros":{"dtype":"U8","shape":[2,2,64],"data_offsets":[4608,4864]},)"
                             R"("m.bias":{"dtype":"F32","shape":[100],"data_offsets":[4864,5264]}})";
        header.resize((header.size() + 8 + 63) / 64 * 64 - 8 + shift, ' ');
        const TemporaryFile file(safetensors_bytes(header, std::string(5264, '\0')));
        const SafetensorsFile tensors(file.path());
        return load_matrix(tensors, "m", Json::parse("{\"m\":" + description + "}", "matrices"));
    }

    static MatrixFile described(const std::string &description) {
        MatrixFile file;
        file.description = description;
        return file;
    }
};

} // namespace

TEST_CASE("a matrix loads its parts") {
    const Matrix matrix = MatrixFile{}.read();
    CHECK(matrix.precision == Precision::int4);
    CHECK(matrix.quantized());
    CHECK(!matrix.symmetric);
    CHECK(matrix.rows == 100);
    CHECK(matrix.columns == 64);
    CHECK(matrix.group_size == 32);
    CHECK(matrix.panels() == 2);
    CHECK(matrix.groups() == 2);
    CHECK(matrix.scales != nullptr);
    CHECK(matrix.zeros != nullptr);
    CHECK(matrix.bias != nullptr);
    CHECK(matrix.weight_bytes == 5264);
}

TEST_CASE("a matrix of four bits says what they mean") {
    const auto read = [](const char *code) {
        return MatrixFile::described(std::string(R"({"precision":"int4","code":)") + code +
                                     R"(,"rows":100,"columns":64,"group_size":32,"symmetric":true})")
            .read();
    };
    CHECK(MatrixFile{}.read().code == Code::uniform);
    CHECK(read(R"("uniform")").code == Code::uniform);
    CHECK(read(R"("nf4")").code == Code::nf4);
    CHECK_FAILS(V2E_ERROR_BUNDLE, "matrix 'm' has an unknown code", read(R"("fp4")"));
}

TEST_CASE("a matrix refuses descriptions that make no sense") {
    const auto load = [](const char *description) { MatrixFile::described(description).load(); };
    CHECK_FAILS(V2E_ERROR_BUNDLE, "unknown precision",
                load(R"({"precision":"int3","rows":100,"columns":64,"group_size":32,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "impossible size",
                load(R"({"precision":"int4","rows":0,"columns":64,"group_size":32,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "impossible size",
                load(R"({"precision":"int4","rows":100,"columns":9000000000,"group_size":32,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "group size",
                load(R"({"precision":"int4","rows":100,"columns":64,"group_size":16,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "does not divide",
                load(R"({"precision":"int4","rows":100,"columns":96,"group_size":64,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not symmetric",
                load(R"({"precision":"int8","rows":100,"columns":64,"group_size":32,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is nf4 but not int4 without zero points",
                load(R"({"precision":"int4","code":"nf4","rows":100,"columns":64,"group_size":32,"symmetric":false})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "is nf4 but not int4 without zero points",
                load(R"({"precision":"int8","code":"nf4","rows":100,"columns":64,"group_size":32,"symmetric":true})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "has the key 'order', which is unknown",
                load(R"({"precision":"int4","rows":100,"columns":64,"group_size":32,"symmetric":false,"order":1})"));
    CHECK_FAILS(V2E_ERROR_BUNDLE, "lacks 'symmetric'",
                load(R"({"precision":"int4","rows":100,"columns":64,"group_size":32})"));
}

TEST_CASE("a matrix refuses tensors that do not fit") {
    CHECK_FAILS(
        V2E_ERROR_BUNDLE, "'m.weight' has another shape",
        MatrixFile::described(R"({"precision":"int4","rows":129,"columns":64,"group_size":32,"symmetric":false})")
            .load());
    CHECK_FAILS(
        V2E_ERROR_BUNDLE, "'m.bias' has another shape",
        MatrixFile::described(R"({"precision":"int4","rows":99,"columns":64,"group_size":32,"symmetric":false})")
            .load());
    MatrixFile file;
    file.weight_dtype = "I8";
    CHECK_FAILS(V2E_ERROR_BUNDLE, "dtype I8 instead of U8", file.load());
    MatrixFile shifted;
    shifted.shift = 1;
    CHECK_FAILS(V2E_ERROR_BUNDLE, "not aligned", shifted.load());
}
