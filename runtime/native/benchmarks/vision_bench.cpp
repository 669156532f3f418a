// valley2_vision_bench [THREADS] [ISA] [ROUNDS] [NAME]: the products of a layer of SigLIP and Eagle and their
// attention, each as a share of the fp32 peak; with NAME only those whose name holds it. In every round all of them run
// once with the peak read in between. The first figure is the median of a round's shares, the second the best run's
// share of the best peak: where other programs use the machine too, and with them the other half of a core, the second
// one says more. A thread is timed by the processor time that it took.
#include "base/platform.hpp"
#include "base/thread_pool.hpp"
#include "cpu/isa.hpp"
#include "cpu/probe/probe_kernels.hpp"
#include "cpu/vision/vision_kernels.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <time.h>
#endif

using namespace v2e;

namespace {

constexpr size_t ROWS = 96; // of a block
constexpr size_t SLICE = 8; // panels of a matrix that one run multiplies, the next run the next ones
constexpr size_t PADDING = 64;

struct Layer {
    const char *tower;
    size_t width, middle, heads, tokens;
};

constexpr Layer LAYERS[] = {{"siglip", 1152, 4304, 16, 729}, {"eagle", 1280, 5120, 16, 1024}};

// Processor time of this thread where the system counts it, else what has passed.
double thread_seconds() {
#if defined(__linux__)
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
#else
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// Small numbers, none of them subnormal.
std::vector<float> some_floats(size_t count) {
    std::vector<float> values(count + PADDING);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = 0.01f + 0.001f * static_cast<float>(i % 37);
    return values;
}

// The longest of the times that body(thread) takes on the threads.
template <class Body>
double longest_seconds(ThreadPool &pool, Body &&body) {
    std::vector<double> seconds(pool.threads());
    pool.run(pool.threads(), [&](size_t thread) {
        const double begin = thread_seconds();
        body(thread);
        seconds[thread] = thread_seconds() - begin;
    });
    return *std::max_element(seconds.begin(), seconds.end());
}

// Floating-point operations a second that all threads can do at most at this moment.
double fp32_peak(v2e_isa isa, ThreadPool &pool) {
    const ProbeKernels *kernels = isa == V2E_ISA_AVX512_VNNI ? probe_kernels_avx512()
                                  : isa == V2E_ISA_NEON      ? probe_kernels_neon()
                                  : isa == V2E_ISA_PORTABLE  ? probe_kernels_portable()
                                                             : probe_kernels_avx2();
    constexpr uint64_t PEAK_ROUNDS = 300'000;
    std::vector<double> operations(pool.threads());
    const double seconds =
        longest_seconds(pool, [&](size_t thread) { operations[thread] = kernels->multiply_fp32(PEAK_ROUNDS); });
    return std::accumulate(operations.begin(), operations.end(), 0.0) / seconds;
}

// One piece of work: it does `operations` and says how long it took.
struct Subject {
    std::string name;
    double operations;
    std::function<double()> run;
    std::vector<double> shares;
    double best; // operations a second
};

// A block of rows times a matrix, on every thread at once.
class Product {
  public:
    Product(const VisionArithmetic &arithmetic, VisionPrecision precision, size_t outputs, size_t columns,
            ThreadPool &pool)
        : arithmetic_(arithmetic), pool_(pool), panels_(round_up(outputs, VISION_PANEL) / VISION_PANEL) {
        const size_t groups = (columns + values_in_word(precision) - 1) / values_in_word(precision);
        weight_ = AlignedBuffer<std::byte>(panels_ * groups * VISION_PANEL * 4);
        std::memset(weight_.data(), 0x3d, panels_ * groups * VISION_PANEL * 4);
        scales_ = some_floats(panels_ * VISION_PANEL);
        sums_.assign(panels_ * VISION_PANEL, 1);
        matrix_ = {weight_.data(), scales_.data(), sums_.data(), scales_.data(), columns};
        const std::vector<float> row = some_floats(columns);
        for (unsigned i = 0; i < pool.threads(); ++i)
            workers_.emplace_back(arithmetic, row, columns, panels_ * VISION_PANEL);
    }

    double operations() const {
        return 2.0 * static_cast<double>(ROWS * SLICE * VISION_PANEL * matrix_.columns * workers_.size());
    }

    double run() {
        first_ = first_ + 2 * SLICE > panels_ ? 0 : first_ + SLICE;
        return longest_seconds(pool_, [&](size_t thread) {
            Worker &worker = workers_[thread];
            arithmetic_.multiply(matrix_, first_, first_ + SLICE, worker.rows,
                                 {worker.output.data(), panels_ * VISION_PANEL, Finish::store}, worker.scratch.data());
        });
    }

  private:
    struct Worker {
        AlignedBuffer<uint32_t> words, scratch;
        AlignedBuffer<float> output;
        std::vector<float> scales;
        std::vector<int32_t> zeros;
        VisionRows rows{};

        Worker(const VisionArithmetic &arithmetic, const std::vector<float> &row, size_t columns, size_t outputs)
            : words(product_words(arithmetic, columns, ROWS)), scratch(VISION_BLOCK_WORDS * VISION_PANEL),
              output(ROWS * outputs), scales(ROWS), zeros(ROWS) {
            AlignedBuffer<uint32_t> packed(round_up(columns, PADDING));
            for (size_t i = 0; i < ROWS; ++i) {
                arithmetic.pack_row(row.data(), columns, packed.data(), &scales[i], &zeros[i]);
                place_row(arithmetic, packed.data(), columns, i, ROWS, words.data());
            }
            rows = {words.data(), 0, scales.data(), zeros.data(), ROWS};
        }
    };

    const VisionArithmetic &arithmetic_;
    ThreadPool &pool_;
    size_t panels_, first_ = 0;
    AlignedBuffer<std::byte> weight_;
    std::vector<float> scales_;
    std::vector<int32_t> sums_;
    VisionPanels matrix_{};
    std::vector<Worker> workers_;
};

// Attention of one head of a picture, on every thread at once.
class Attention {
  public:
    Attention(const VisionArithmetic &arithmetic, const Layer &layer, ThreadPool &pool)
        : arithmetic_(arithmetic), pool_(pool), size_(layer.width / layer.heads), tokens_(layer.tokens) {
        for (unsigned i = 0; i < pool.threads(); ++i)
            workers_.emplace_back(size_, tokens_);
    }

    double operations() const { return 4.0 * static_cast<double>(tokens_ * tokens_ * size_ * workers_.size()); }

    double run() {
        return longest_seconds(pool_, [&](size_t thread) { attend(workers_[thread]); });
    }

  private:
    struct Worker {
        std::vector<float> values; // (tokens, 3, size): queries, keys and values
        std::vector<float> output, scratch;
        AlignedBuffer<uint32_t> memory, words;
        std::vector<float> scales;
        std::vector<int32_t> zeros;
        VisionHead head{};

        Worker(size_t size, size_t tokens)
            : values(some_floats(tokens * 3 * size)), output(tokens * size), scratch(vision_attention_floats(size)),
              scales(VISION_MOST_ROWS), zeros(VISION_MOST_ROWS) {
            const size_t width = round_up(size, VISION_LANES), padded = round_up(tokens, VISION_PANEL);
            memory = AlignedBuffer<uint32_t>(2 * padded * width + 2 * padded + width);
            words = AlignedBuffer<uint32_t>(VISION_MOST_ROWS * width);
            head.keys = memory.data();
            head.values = head.keys + padded * width;
            head.key_scales = reinterpret_cast<float *>(head.values + padded * width);
            head.key_sums = reinterpret_cast<int32_t *>(head.key_scales + padded);
            head.value_scales = reinterpret_cast<float *>(head.key_sums + padded);
            head.count = tokens;
            head.size = size;
        }
    };

    void attend(Worker &worker) {
        const size_t stride = 3 * size_;
        const float *values = worker.values.data();
        arithmetic_.pack_head(values + size_, values + 2 * size_, stride, worker.head);
        const size_t words = row_words(arithmetic_, size_);
        for (size_t token = 0; token < tokens_; token += arithmetic_.tile_rows) {
            const size_t count = std::min(arithmetic_.tile_rows, tokens_ - token);
            const VisionRows queries{worker.words.data(), words, worker.scales.data(), worker.zeros.data(), count};
            for (size_t i = 0; i < count; ++i)
                arithmetic_.pack_row(values + (token + i) * stride, size_, worker.words.data() + i * words,
                                     &worker.scales[i], &worker.zeros[i]);
            arithmetic_.attend(queries, worker.head, 0.1f, worker.output.data() + token * size_, size_,
                               worker.scratch.data());
        }
    }

    const VisionArithmetic &arithmetic_;
    ThreadPool &pool_;
    size_t size_, tokens_;
    std::vector<Worker> workers_;
};

v2e_isa parse_isa(std::string_view name) {
    for (const v2e_isa isa : ALL_ISAS)
        if (name == isa_name(isa) && isa_available(isa))
            return isa;
    return best_isa();
}

// The products and the attention of one layer in one precision.
void add_layer(const Layer &layer, const char *name, const VisionKernels &kernels, VisionPrecision precision,
               ThreadPool &pool, std::vector<Subject> &subjects) {
    struct Shape {
        const char *name;
        size_t outputs, columns;
    };
    const Shape shapes[] = {{"qkv", 3 * layer.width, layer.width},
                            {"output", layer.width, layer.width},
                            {"up", layer.middle, layer.width},
                            {"down", layer.width, layer.middle}};
    const VisionArithmetic &arithmetic = kernels.arithmetic(precision);
    const std::string prefix = std::string(layer.tower) + " " + name + " ";
    for (const Shape &shape : shapes) {
        auto product = std::make_shared<Product>(arithmetic, precision, shape.outputs, shape.columns, pool);
        subjects.push_back({prefix + shape.name, product->operations(), [product] { return product->run(); }, {}, 0});
    }
    auto attention = std::make_shared<Attention>(arithmetic, layer, pool);
    subjects.push_back(
        {prefix + "attention", attention->operations(), [attention] { return attention->run(); }, {}, 0});
}

} // namespace

int main(int argc, char **argv) {
    const unsigned threads = argc > 1 ? static_cast<unsigned>(std::max(1, std::atoi(argv[1]))) : usable_threads();
    const v2e_isa isa = parse_isa(argc > 2 ? argv[2] : "");
    const VisionKernels &kernels = vision_kernels(isa);
    ThreadPool pool(threads);
    std::vector<Subject> subjects;
    for (const Layer &layer : LAYERS) {
        add_layer(layer, "fp32", kernels, VisionPrecision::fp32, pool, subjects);
        add_layer(layer, "bf16", kernels, VisionPrecision::bf16, pool, subjects);
        add_layer(layer, "int8", kernels, VisionPrecision::int8, pool, subjects);
    }
    const int rounds = argc > 3 ? std::max(1, std::atoi(argv[3])) : 31;
    const std::string_view wanted = argc > 4 ? argv[4] : "";
    double best_peak = 0;
    for (int round = -1; round < rounds; ++round) // the first one warms up
        for (Subject &subject : subjects) {
            if (subject.name.find(wanted) == std::string::npos)
                continue;
            const double peak = fp32_peak(isa, pool), rate = subject.operations / subject.run();
            if (round < 0)
                continue;
            subject.shares.push_back(rate / peak);
            subject.best = std::max(subject.best, rate);
            best_peak = std::max(best_peak, peak);
        }
    std::printf("%s, %u threads, %.1f GFLOPS: median and best share of the fp32 peak\n", isa_name(isa), threads,
                best_peak / 1e9);
    for (const Subject &subject : subjects)
        if (!subject.shares.empty())
            std::printf("%-24s %.3f %.3f\n", subject.name.c_str(), median(subject.shares), subject.best / best_peak);
    return 0;
}
