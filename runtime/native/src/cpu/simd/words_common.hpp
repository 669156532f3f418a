// Words that are floats, on every instruction set. Included by the words_*.hpp headers only.

namespace v2e::V2E_SIMD {

// Begins to fetch a line of memory that will be read soon. In assembly, because GCC 12 takes a function that does
// nothing but __builtin_prefetch for one without effects and leaves out its calls.
inline void prefetch(const void *address) {
#if defined(__GNUC__) && defined(__x86_64__)
    __asm__ volatile("prefetcht0 (%0)" : : "r"(address));
#elif defined(__GNUC__) && defined(__aarch64__)
    __asm__ volatile("prfm pldl1keep, [%0]" : : "r"(address));
#else
    (void)address;
#endif
}

// Floats, as rows and as panels.
struct FloatRows {
    using Element = float;
    using Sum = Vec;
    static constexpr size_t PER_WORD = 1;
    static constexpr size_t STORED = 1; // values in a word of the file
    static constexpr bool INTEGER = false;
    static constexpr bool CONVERTS = false;

    static Sum none() { return splat(0.0f); }
    static Sum dot(Sum sum, Words row, Words panel) { return fma(as_floats(row), as_floats(panel), sum); }
    static void store_row(Element *target, Vec value) { store(target, value); }
    static void store_panel(Element *target, Vec value) { store(target, value); }
    static Words join(const Vec (&values)[PER_WORD]) { return as_words(values[0]); }
};

// Floats; a panel of bf16 is widened first.
struct WidenedRows : FloatRows {
    static constexpr size_t STORED = 2;
    static constexpr bool CONVERTS = true;

    // (groups, 32) words of two bf16 to (2 * groups, 32) floats.
    static void convert(const uint32_t *source, size_t groups, uint32_t *target) {
        for (size_t group = 0; group < groups; ++group)
            for (size_t lane = 0; lane < 32; lane += 16) {
                const Words pair = load_words(source + group * 32 + lane);
                store_words(target + group * 64 + lane, shifted_up(pair));
                store_words(target + group * 64 + 32 + lane, upper_halves(pair));
            }
    }
};

} // namespace v2e::V2E_SIMD
