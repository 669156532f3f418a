// A saved session: a safetensors file with what a session holds (docs/reuse.md, "Saved sessions").
#pragma once

#include "kv_cache.hpp"
#include "prefix_cache.hpp"
#include "safetensors.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace v2e {

// What a file says of a session beside its arrays.
struct SavedSession {
    std::string identity;   // of the bundle
    std::string arithmetic; // whose bits the keys and values have: library, instruction set, activations
    std::string note;       // of the caller, UTF-8
    KvPrecision precision = KvPrecision::fp32;
    size_t context_length = 0;
    size_t prefill_chunk = 0;
};

// The arrays of a session, as they lie in memory.
struct SessionArrays {
    const std::vector<int32_t> &tokens;   // (length,), negative for an embedding
    const std::vector<PositionKey> &keys; // (length,)
    const KvCache &cache;
    const float *logits; // (vocabulary_size,) of the last position; null: there are none
    size_t vocabulary_size;
};

// Writes the file whole or not at all. Fails with V2E_ERROR_INPUT.
void write_session(const std::string &path, const SavedSession &saved, const SessionArrays &arrays);

// A file whose sizes and checksum are right. All failures are V2E_ERROR_INPUT.
class SessionFile {
  public:
    // Refuses a session of another bundle.
    SessionFile(const std::string &path, const std::string &identity);

    const SavedSession &saved() const { return saved_; }
    const std::string &path() const { return file_.path(); }
    // Bytes of a tensor of this dtype and shape.
    const std::byte *tensor(const char *name, const char *dtype, const std::vector<uint64_t> &shape) const;
    size_t length() const; // positions
    bool has_logits() const { return file_.contains("logits"); }

  private:
    const std::string &metadata(const char *key) const;
    size_t number(const char *key) const;
    [[noreturn]] void refuse() const;

    SafetensorsFile file_;
    SavedSession saved_;
};

} // namespace v2e
