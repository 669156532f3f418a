// Files that live as long as a test.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string &content) {
        static std::atomic<unsigned> counter{0};
        const auto stamp = std::chrono::steady_clock::now().time_since_epoch().count();
        path_ = std::filesystem::temp_directory_path() /
                ("valley2_test_" + std::to_string(stamp) + "_" + std::to_string(counter.fetch_add(1)));
        std::ofstream(path_, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
    }
    ~TemporaryFile() {
        std::error_code ignored; // a leftover in the temporary directory does not fail a test
        std::filesystem::remove(path_, ignored);
    }
    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;

    std::string path() const { return path_.string(); }

  private:
    std::filesystem::path path_;
};

// A safetensors file of a header and data; `announced` overrides the header's length.
inline std::string safetensors_bytes(const std::string &header, const std::string &data,
                                     uint64_t announced = UINT64_MAX) {
    const uint64_t length = announced == UINT64_MAX ? header.size() : announced;
    std::string bytes;
    for (unsigned i = 0; i < 8; ++i)
        bytes += static_cast<char>(length >> (8 * i) & 0xff);
    return bytes + header + data;
}
