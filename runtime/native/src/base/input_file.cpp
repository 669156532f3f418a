#include "base/input_file.hpp"

#include "base/error.hpp"

namespace v2e {

std::string InputFile::read_all(size_t most) {
    const v2e_file_stamp before = stamp();
    std::string content;
    constexpr size_t PIECE = size_t{1} << 20;
    for (;;) {
        const size_t size = content.size();
        content.resize(size + PIECE);
        const size_t got = read(content.data() + size, PIECE);
        content.resize(size + got);
        if (got == 0)
            break;
        if (content.size() > most)
            refuse("it is larger than such a file may be");
    }
    if (!same_stamp(before, stamp()))
        refuse("it changed while it was read");
    return content;
}

void InputFile::refuse(const char *reason) const {
    fail(V2E_ERROR_BUNDLE, "%s cannot be read: %s.", path_.c_str(), reason);
}

bool same_stamp(const v2e_file_stamp &one, const v2e_file_stamp &other) {
    return one.size == other.size && one.mtime_ns == other.mtime_ns && one.ctime_ns == other.ctime_ns &&
           one.inode == other.inode && one.device == other.device;
}

} // namespace v2e
