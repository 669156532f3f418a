// Safetensors: the input is the file, byte for byte. What is accepted lies within the file and covers its data once.
#include "bundle/safetensors.hpp"
#include "fuzz/fuzz.hpp"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const fuzz::ScratchDirectory scratch;
    static const std::string path = scratch.file("input.safetensors");
    fuzz::write_file(path, {reinterpret_cast<const char *>(data), size});
    try {
        const v2e::SafetensorsFile file(path);
        MUST(file.mapped_bytes() == size);
        size_t covered = 0;
        unsigned sum = 0;
        for (const auto &[name, tensor] : file.tensors()) {
            MUST(&file.tensor(name) == &tensor);
            covered += tensor.bytes;
            MUST(covered <= size);
            for (size_t i = 0; i < tensor.bytes; ++i)
                sum += static_cast<unsigned>(tensor.data[i]); // reads beyond the mapping are seen
        }
        uint64_t header = 0;
        std::memcpy(&header, data, sizeof header);
        MUST(sizeof header + header + covered == size && sum <= 255 * covered);
    } catch (const v2e::Failure &failure) {
        MUST(failure.status == V2E_ERROR_BUNDLE && !failure.message.empty());
    }
    return 0;
}
