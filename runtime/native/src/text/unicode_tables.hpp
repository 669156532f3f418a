// What unicode/make_tables.py has written down; text/unicode.hpp makes it quick to look up.
#pragma once

#include <cstdint>
#include <span>

namespace v2e {

// Marks in a row whose canonical combining class is the same.
struct MarkRun {
    char32_t first, last;
    uint32_t combining_class;
};

// Two characters that NFC makes one of.
struct Composition {
    char32_t first, second, composed;
};

extern const std::span<const uint32_t> PROPERTY_RUNS;   // first code point << 8 | properties, up to the next run
extern const std::span<const MarkRun> MARK_RUNS;        // in the order of the code points
extern const std::span<const uint32_t> DECOMPOSITIONS;  // code point << 8 | length of its decomposition, in order
extern const std::span<const char32_t> DECOMPOSED;      // the decompositions, one after the other
extern const std::span<const Composition> COMPOSITIONS; // in the order of the pairs

} // namespace v2e
