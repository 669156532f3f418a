// A saved session: a safetensors file with what a session holds (docs/reuse.md, "Saved sessions").
#pragma once

#include "bundle/safetensors.hpp"
#include "decoder/kv_cache.hpp"
#include "generation/prefix_cache.hpp"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace v2e {

// What a file says of a session beside its arrays.
struct SavedSession {
    std::string identity;   // digest of the bundle
    std::string arithmetic; // whose bits the keys and values have: for people, and for readers of earlier releases
    std::string note;       // the caller's own text, UTF-8
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

constexpr size_t MOST_NOTE_BYTES = size_t{16} << 20;

// Writes the file whole or not at all. Fails with V2E_ERROR_INPUT, for a note that is not UTF-8 or too long as well.
void write_session(const std::string &path, const SavedSession &saved, const SessionArrays &arrays);

// A file that anybody may have written. All failures are V2E_ERROR_INPUT.
class SessionFile {
  public:
    // Refuses a session of another bundle.
    SessionFile(const std::string &path, const std::string &identity);

    const SavedSession &saved() const { return saved_; }
    const std::string &path() const { return file_.path(); }
    // Bytes of a tensor of this dtype and shape.
    const std::byte *tensor(const char *name, const char *dtype, const std::vector<uint64_t> &shape) const;
    // A copy of such a tensor: what is checked of it stays so, whatever becomes of the file.
    template <class Value>
    std::vector<Value> values(const char *name, const char *dtype, const std::vector<uint64_t> &shape) const {
        const std::byte *data = tensor(name, dtype, shape);
        std::vector<Value> copy(static_cast<size_t>(shape[0]));
        if (!copy.empty())
            std::memcpy(copy.data(), data, copy.size() * sizeof(Value));
        return copy;
    }
    void require_intact() const { file_.require_intact(V2E_ERROR_INPUT); }
    // Reads the whole file: the sizes are looked at before. Refuses one that is not as it was saved.
    void check_sum() const;
    size_t length() const; // positions
    bool has_logits() const { return file_.contains("logits"); }
    // Fails because the file is damaged; the reason ends the sentence.
    [[noreturn]] void refuse(const std::string &reason) const;

  private:
    const std::string &metadata(const char *key) const;
    size_t number(const char *key) const;
    [[noreturn]] void refuse() const { refuse("what it holds is not what was saved"); }

    SafetensorsFile file_;
    SavedSession saved_;
};

} // namespace v2e
