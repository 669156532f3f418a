// A cancel acts at the next piece of work of each thread, and no piece is long. Pieces are counted, never timed: a
// piece is what one thread does between two looks at the stop flag.
#include "cpu/attention/attention.hpp"
#include "cpu/linear/linear.hpp"
#include "cpu/linear/linear_kernels.hpp"
#include "cpu/vision/vision_kernels.hpp"
#include "decoder/kv_cache.hpp"
#include "tests/check.hpp"
#include "tests/instruction_sets.hpp"
#include "tests/random_matrix.hpp"
#include "vision/row_block.hpp"

#include <algorithm>
#include <limits>

using namespace v2e;

namespace {

// Multiply-adds of one piece at most: 27 ms where a core makes 5e9 a second, a slow one without VNNI.
constexpr size_t MOST_PRODUCTS = size_t{1} << 27;
constexpr size_t NEVER = std::numeric_limits<size_t>::max();

// Sizes of the released model (docs/valley2.md).
constexpr size_t HIDDEN = 3584, MIDDLE = 18944, VOCABULARY = 152064, QKV = 4608, HEAD = 128;
constexpr size_t EAGLE_HEAD = 80;

// Kernels that compute nothing and remember the longest piece that they were asked for.
std::atomic<size_t> longest{0};

void note_piece(size_t products) {
    size_t before = longest.load();
    while (products > before && !longest.compare_exchange_weak(before, products)) {
    }
}

void quantize_nothing(const float *, size_t, size_t columns, size_t, const IntegerTile &tile) {
    note_piece(columns * tile.rows);
}

void multiply_no_integers(const IntegerPanels &panels, const IntegerRows &rows, const PanelOutput &) {
    const size_t first = rows.tiles.first_row(rows.first_tile), last = rows.tiles.first_row(rows.last_tile);
    const bool streamed = rows.last_tile - rows.first_tile <= 2; // the most tiles that any instruction set streams
    note_piece(panels.panels * PANEL * (last - first) *
               (streamed ? panels.columns : std::min(panels.columns, INTEGER_BLOCK)));
}

void multiply_no_floats(const FloatPanel &panel, const FloatRows &rows, const PanelOutput &) {
    note_piece(PANEL * rows.count * std::min(panel.columns, FLOAT_BLOCK));
}

Matrix released_matrix(Precision precision, size_t rows, size_t columns) {
    Matrix matrix;
    matrix.precision = precision;
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.group_size = matrix.quantized() ? 128 : 0;
    return matrix;
}

} // namespace

TEST_CASE("decoder products of the released sizes have short pieces") {
    const LinearKernels kernels{8, quantize_nothing, multiply_no_integers, multiply_no_floats};
    const std::pair<size_t, size_t> sizes[] = {
        {QKV, HIDDEN}, {HIDDEN, HIDDEN}, {2 * MIDDLE, HIDDEN}, {HIDDEN, MIDDLE}, {VOCABULARY, HIDDEN}};
    for (const unsigned threads : {1u, 2u, 16u})
        for (const Precision precision : {Precision::int4, Precision::int8, Precision::fp16})
            for (const auto &[rows, columns] : sizes)
                for (const size_t count : {1u, 16u, 256u}) {
                    ThreadPool pool(threads);
                    const Linear linear(V2E_ISA_PORTABLE, &kernels, V2E_ACTIVATIONS_INT16, pool);
                    const Matrix matrix = released_matrix(precision, rows, columns);
                    AlignedBuffer<float> input(count * columns), output(count * rows);
                    LinearScratch scratch;
                    longest = 0;
                    linear.apply(matrix, input.data(), count, columns, output.data(), rows, scratch);
                    CHECK(longest > 0);
                    CHECK(longest <= MOST_PRODUCTS);
                }
}

TEST_CASE("decoder kernels look before every block of columns") {
    for_each_isa([](v2e_isa isa) {
        for (const Precision precision : {Precision::int4, Precision::int8, Precision::fp16, Precision::fp32}) {
            constexpr size_t COLUMNS = 1024, COUNT = 48;
            RandomMatrixOptions options;
            options.precision = precision;
            options.rows = 2 * PANEL;
            options.columns = COLUMNS;
            options.keep_values = false;
            const RandomMatrix random = random_matrix(options);
            ThreadPool pool(1);
            const Linear linear(isa, V2E_ACTIVATIONS_INT8, pool);
            const std::vector<float> input(COUNT * COLUMNS, 0.5f);
            std::vector<float> output(COUNT * options.rows);
            const auto looks = [&](const StopFlag &stop) {
                LinearScratch scratch;
                scratch.stop = &stop;
                linear.apply(random.matrix, input.data(), COUNT, COLUMNS, output.data(), options.rows, scratch);
                return stop.looks();
            };
            StopFlag stop;
            stop.set_at_look(NEVER);
            const size_t all = looks(stop);
            CHECK(all >= (random.matrix.quantized() ? COLUMNS / INTEGER_BLOCK : 2 * COLUMNS / FLOAT_BLOCK));
            for (size_t look = 0; look < all; ++look) {
                StopFlag stopped;
                stopped.set_at_look(look);
                CHECK_FAILS(V2E_ERROR_CANCELLED, "cancelled", looks(stopped));
                CHECK(stopped.looks() <= look + 4); // a task's two panels, the next task, the region's end
            }
        }
    });
}

TEST_CASE("attention looks before every segment of keys") {
    CHECK(2 * MAX_ATTENTION_ROWS * KEY_SEGMENT * HEAD <= MOST_PRODUCTS);
    for_each_isa([](v2e_isa isa) {
        constexpr size_t SIZE = 32, POSITIONS = 3 * KEY_SEGMENT + 5;
        KvCache cache(1, 1, SIZE, KvPrecision::fp32);
        cache.reserve(POSITIONS);
        for (size_t page = 0; page * KV_PAGE < POSITIONS; ++page)
            std::memset(cache.page(page)->data(), 0, cache.page(page)->size());
        std::vector<float> query(SIZE, 1.0f), output(SIZE);
        AlignedBuffer<float> scratch(attention_scratch_floats(SIZE));
        StopFlag stop;
        stop.set_at_look(NEVER);
        AttentionTask task{};
        task.cache = cache.view(0, 0);
        task.queries = query.data();
        task.output = output.data();
        task.query_stride = task.output_stride = task.head_size = SIZE;
        task.first_position = POSITIONS - 1;
        task.positions = task.heads = 1;
        task.score_scale = 1.0f;
        task.stop = &stop;
        CHECK(attention_kernels(isa).attend(task, scratch.data()));
        CHECK(stop.looks() == 4);
    });
}

TEST_CASE("vision products look before every block of a panel") {
    CHECK(MOST_BLOCK_ROWS * VISION_PANEL * VISION_BLOCK_WORDS * 4 <= MOST_PRODUCTS); // at most four values in a word
    for_each_isa([](v2e_isa isa) {
        const VisionArithmetic &arithmetic = vision_kernels(isa).bf16;
        constexpr size_t COLUMNS = 4 * VISION_BLOCK_WORDS, PANELS = 5, ROWS = 16;
        AlignedBuffer<std::byte> weight(PANELS * VISION_PANEL * COLUMNS * 2);
        std::memset(weight.data(), 0, PANELS * VISION_PANEL * COLUMNS * 2);
        std::vector<uint32_t> words(product_words(arithmetic, COLUMNS, ROWS)),
            scratch(VISION_BLOCK_WORDS * VISION_PANEL);
        std::vector<float> output(ROWS * PANELS * VISION_PANEL);
        StopFlag stop;
        stop.set_at_look(NEVER);
        arithmetic.multiply({weight.data(), nullptr, nullptr, nullptr, COLUMNS}, 0, PANELS,
                            {words.data(), 0, nullptr, nullptr, ROWS, &stop},
                            {output.data(), PANELS * VISION_PANEL, Finish::store}, scratch.data());
        CHECK(stop.looks() == PANELS * COLUMNS / arithmetic.per_word / VISION_BLOCK_WORDS);
    });
}

TEST_CASE("vision attention looks before every block of keys") {
    CHECK(2 * VISION_MOST_ROWS * VISION_KEYS * EAGLE_HEAD <= MOST_PRODUCTS);
    for_each_isa([](v2e_isa isa) {
        const VisionArithmetic &arithmetic = vision_kernels(isa).bf16;
        constexpr size_t SIZE = 16, KEYS = 2 * VISION_KEYS + 1, PADDED = round_up(KEYS, VISION_PANEL);
        std::vector<uint32_t> memory(PADDED * SIZE * 2 + 2 * PADDED + SIZE);
        VisionHead head{};
        head.keys = memory.data();
        head.values = head.keys + PADDED * row_words(arithmetic, SIZE);
        head.key_scales = reinterpret_cast<float *>(head.values + PADDED / arithmetic.per_word * SIZE);
        head.key_sums = reinterpret_cast<int32_t *>(head.key_scales + PADDED);
        head.value_scales = reinterpret_cast<float *>(head.key_sums + PADDED);
        head.count = KEYS;
        head.size = SIZE;
        std::vector<float> values(KEYS * 2 * SIZE, 1.0f), output(SIZE), scratch(vision_attention_floats(SIZE));
        arithmetic.pack_head(values.data(), values.data() + SIZE, 2 * SIZE, head);
        std::vector<uint32_t> words(VISION_MOST_ROWS * row_words(arithmetic, SIZE));
        StopFlag stop;
        stop.set_at_look(NEVER);
        CHECK(arithmetic.attend({words.data(), row_words(arithmetic, SIZE), nullptr, nullptr, 1, &stop}, head, 1.0f,
                                output.data(), SIZE, scratch.data()));
        CHECK(stop.looks() == 3);
    });
}
