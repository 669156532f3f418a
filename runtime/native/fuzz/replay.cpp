// Stands in for libFuzzer: FILE_OR_FOLDER... runs a target once on every file, in the order of their names. A fuzz
// target that has no files fails, so that a moved folder is noticed.
#include "fuzz/fuzz.hpp"

#include <iterator>
#include <vector>

int main(int argc, char **argv) {
    std::vector<std::filesystem::path> files;
    for (int i = 1; i < argc; ++i) {
        if (!std::filesystem::is_directory(argv[i])) {
            files.emplace_back(argv[i]);
            continue;
        }
        for (const auto &entry : std::filesystem::directory_iterator(argv[i]))
            files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const std::filesystem::path &path : files) {
        std::ifstream file(path, std::ios::binary);
        const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        std::printf("%s, %zu bytes\n", path.c_str(), content.size());
        std::fflush(stdout); // the last line names the input that ends the program
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(content.data()), content.size());
    }
    std::printf("%zu inputs\n", files.size());
    return files.empty() ? 1 : 0;
}
