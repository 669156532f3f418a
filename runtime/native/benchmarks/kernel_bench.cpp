// valley2_kernel_bench [THREADS] [ISA]: matrix products at the shapes of a 7B decoder, as shares of what the machine
// can read and multiply at most. Every round measures the limits right before and after; the figures are medians.
#include "cpu/isa.hpp"
#include "cpu/linear/linear.hpp"
#include "cpu/probe/probe.hpp"
#include "tests/random_matrix.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

using namespace v2e;

namespace {

struct Shape {
    const char *name;
    size_t rows, columns;
};

constexpr Shape SHAPES[] = {
    {"qkv", 4608, 3584}, {"output", 3584, 3584}, {"gate_up", 37888, 3584}, {"down", 3584, 18944}};
constexpr size_t COLD_LAYERS = 3; // together far larger than the caches
constexpr int ROUNDS = 9;

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// A matrix of equal bytes: the speed does not depend on the values.
RandomMatrix fast_matrix(const Shape &shape, Precision precision, Code code) {
    RandomMatrix result;
    Matrix &matrix = result.matrix;
    matrix.precision = precision;
    matrix.code = code;
    matrix.rows = shape.rows;
    matrix.columns = shape.columns;
    const size_t values = matrix.panels() * PANEL * matrix.columns;
    size_t bytes = values * 4;
    if (precision == Precision::int4)
        bytes = values / 2;
    else if (precision == Precision::int8)
        bytes = values;
    else if (precision == Precision::fp16)
        bytes = values * 2;
    result.weight = AlignedBuffer<uint8_t>(bytes);
    std::memset(result.weight.data(), 0x2d, bytes); // as a float of either size a normal number, not a slow subnormal
    matrix.weight = result.weight.data();
    matrix.weight_bytes = bytes;
    if (matrix.quantized()) {
        matrix.group_size = 128;
        const size_t scales = matrix.panels() * PANEL * matrix.groups();
        result.scales = AlignedBuffer<uint16_t>(scales);
        std::fill_n(result.scales.data(), scales, half_from_float(0.01f));
        matrix.scales = result.scales.data();
        matrix.weight_bytes += scales * 2;
    }
    return result;
}

class Bench {
  public:
    Bench(v2e_isa isa, unsigned threads) : isa_(isa), pool_(threads), probe_({sizeof(v2e_probe_options), threads, 0}) {}

    void run(const char *name, Precision precision, v2e_activations activations, const std::vector<size_t> &counts,
             size_t shape_count, Code code = Code::uniform) {
        std::vector<RandomMatrix> matrices;
        for (size_t layer = 0; layer < COLD_LAYERS; ++layer)
            for (size_t i = 0; i < shape_count; ++i)
                matrices.push_back(fast_matrix(SHAPES[i], precision, code));
        for (const size_t count : counts)
            measure(name, matrices, activations, count, shape_count);
    }

  private:
    void measure(const char *name, const std::vector<RandomMatrix> &matrices, v2e_activations activations, size_t count,
                 size_t shape_count) {
        const Linear linear(isa_, activations, pool_);
        double bytes = 0, operations = 0;
        for (size_t i = 0; i < shape_count; ++i) {
            bytes += static_cast<double>(matrices[i].matrix.weight_bytes);
            operations += 2.0 * static_cast<double>(matrices[i].matrix.rows * matrices[i].matrix.columns * count);
        }
        const std::vector<float> input = random_rows(count, 18944, 1);
        std::vector<float> output(count * 37888);
        const bool decode = count == 1;
        std::vector<double> rates, shares;
        for (int round = -1; round < ROUNDS; ++round) { // the first one warms up
            const double before = limit(decode), start = seconds_now();
            const size_t layers = decode ? COLD_LAYERS : 1;
            for (size_t i = 0; i < layers * shape_count; ++i) {
                const Matrix &matrix = matrices[i].matrix;
                linear.apply(matrix, input.data(), count, matrix.columns, output.data(), matrix.rows, scratch_);
            }
            const double seconds = (seconds_now() - start) / static_cast<double>(layers);
            const double peak = (before + limit(decode)) / 2, rate = (decode ? bytes : operations) / seconds;
            if (round < 0)
                continue;
            rates.push_back(rate / 1e9);
            shares.push_back(rate / peak);
        }
        std::printf("%-22s %4zu rows  %8.1f %s  %.2f of the %s\n", name, count, median(rates), decode ? "GB/s" : "GOPS",
                    median(shares), decode ? "read bandwidth" : "int8 peak");
        std::fflush(stdout);
    }

    double limit(bool decode) { return decode ? probe_.bandwidth() : probe_.int8_peak(); }

    v2e_isa isa_;
    ThreadPool pool_;
    Probe probe_;
    LinearScratch scratch_;
};

v2e_isa parse_isa(std::string_view name) {
    for (const v2e_isa isa : ALL_ISAS)
        if (name == isa_name(isa) && isa_available(isa))
            return isa;
    return best_isa();
}

} // namespace

int main(int argc, char **argv) {
    const unsigned threads = argc > 1 ? static_cast<unsigned>(std::max(1, std::atoi(argv[1]))) : usable_threads();
    const v2e_isa isa = parse_isa(argc > 2 ? argv[2] : "");
    std::printf("%s, %u threads\n", isa_name(isa), threads);
    Bench bench(isa, threads);
    bench.run("int4", Precision::int4, V2E_ACTIVATIONS_INT8, {1, 2, 6, 64, 256}, 4);
    bench.run("int4, int16 inputs", Precision::int4, V2E_ACTIVATIONS_INT16, {1, 256}, 4);
    bench.run("nf4", Precision::int4, V2E_ACTIVATIONS_INT8, {1, 256}, 4, Code::nf4);
    bench.run("int8", Precision::int8, V2E_ACTIVATIONS_INT8, {1, 256}, 4);
    bench.run("fp16", Precision::fp16, V2E_ACTIVATIONS_INT8, {1, 64}, 2);
    bench.run("fp32", Precision::fp32, V2E_ACTIVATIONS_INT8, {1, 64}, 2);
    return 0;
}
