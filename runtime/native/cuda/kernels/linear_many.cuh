// Matrix products for many rows, as in a prefill: tensor cores multiply fp16 rows with weights that are made of their
// codes in registers; sums are fp32. output (count, rows) = input (count, columns) * matrix^T + bias.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::many {

constexpr int THREADS = 256;
constexpr int DEPTH = 32;                        // columns of a stage: two steps of the tensor cores
constexpr int WARP_ROWS = 64, WARP_COLUMNS = 32; // the part of the output that each of 2 * 4 warps computes
constexpr int ROW_TILES = WARP_ROWS / 16, COLUMN_TILES = WARP_COLUMNS / 8;

// Four bits a weight: nibble 2j of a word is column j of its eight, nibble 2j + 1 column j + 4.
struct Int4Weights {
    static constexpr int WORDS = 1;   // words of eight columns of a row
    static constexpr int BUFFERS = 4; // stages, all but one of them being copied
    static constexpr bool TABLE = false;
    // The columns 0 2, 4 6, 1 3 and 5 7, not scaled. 0x6400 is 1024 in fp16, whose lowest bit counts as 1.
    __device__ static void widen(const uint32_t *words, uint32_t zero, const uint16_t *, __half2 (&pairs)[4]) {
        const __half2 offset = __half2half2(__ushort_as_half(static_cast<uint16_t>(0x6400u + zero)));
        for (int i = 0; i < 4; ++i)
            pairs[i] = __hsub2(half2_of((words[0] >> 4 * i & 0x000f000fu) | 0x64006400u), offset);
    }
};

struct Nf4Weights {
    static constexpr int WORDS = 1;
    static constexpr int BUFFERS = 4;
    static constexpr bool TABLE = true;
    __device__ static void widen(const uint32_t *words, uint32_t, const uint16_t *levels, __half2 (&pairs)[4]) {
        for (int i = 0; i < 4; ++i) {
            const uint32_t codes = words[0] >> 4 * i;
            pairs[i] = half2_of(levels[codes & 15u] | static_cast<uint32_t>(levels[codes >> 16 & 15u]) << 16);
        }
    }
};

// A byte a weight, q + 128; two words are eight columns.
struct Int8Weights {
    static constexpr int WORDS = 2;
    static constexpr int BUFFERS = 3; // static shared memory ends at 48 KiB
    static constexpr bool TABLE = false;
    __device__ static void widen(const uint32_t *words, uint32_t, const uint16_t *, __half2 (&pairs)[4]) {
        const __half2 offset = __half2half2(__ushort_as_half(static_cast<uint16_t>(0x6480u)));
        for (int i = 0; i < 4; ++i)
            pairs[i] = __hsub2(half2_of((words[i % 2] >> 8 * (i / 2) & 0x00ff00ffu) | 0x64006400u), offset);
    }
};

// What one stage holds. Rows of the input lie as they are, 64 bytes each: eight lanes that read two rows touch every
// bank once. Of the weights, sixteen bytes are four rows in one block of columns; they change places, so that four
// blocks and eight rows, which a warp reads together, lie in all banks as well.
template <class Weights>
struct Buffers {
    static constexpr int BLOCKS = DEPTH / 8 * Weights::WORDS; // blocks of columns, 64 words each
    uint4 input[MANY_ROWS][DEPTH / 8];
    uint4 weight[MANY_PANELS][BLOCKS][PANEL / 4];
    uint4 scales[MANY_PANELS][PANEL / 8];
    uint4 zeros[MANY_PANELS][PANEL / 16];

    __device__ static int place(int block, int four) { return four ^ (block / Weights::WORDS * 2); }
};

template <class Weights>
class Tile {
  public:
    __device__ Tile(const LinearArguments &arguments, Buffers<Weights> *stages, const uint16_t *levels)
        : arguments_(arguments), matrix_(arguments.matrix), stages_(stages), levels_(levels),
          first_row_(static_cast<int>(blockIdx.y) * MANY_ROWS),
          first_panel_(static_cast<int>(blockIdx.x) * MANY_PANELS) {}

    __device__ void run() {
        const int depths = matrix_.columns / DEPTH;
        for (int depth = 0; depth < Weights::BUFFERS - 1; ++depth)
            copy(depth, depths);
        for (int depth = 0; depth < depths; ++depth) {
            wait_for_copies<Weights::BUFFERS - 2>();
            __syncthreads(); // everyone's copies have arrived, and everyone is done with the stage before
            copy(depth + Weights::BUFFERS - 1, depths);
            multiply(stages_[depth % Weights::BUFFERS]);
        }
        write();
    }

  private:
    __device__ int panel(int index) const { return min(first_panel_ + index, (matrix_.rows + PANEL - 1) / PANEL - 1); }

    __device__ void copy(int depth, int depths) {
        if (depth < depths) {
            Buffers<Weights> &stage = stages_[depth % Weights::BUFFERS];
            copy_input(stage, depth);
            copy_weights(stage, depth);
        }
        commit_copies();
    }

    __device__ void copy_input(Buffers<Weights> &stage, int depth) const {
        for (int index = threadIdx.x; index < MANY_ROWS * DEPTH / 8; index += THREADS) {
            const int row = index / (DEPTH / 8), part = index % (DEPTH / 8);
            const int64_t source = min(first_row_ + row, arguments_.count - 1); // more are not written
            copy_16(&stage.input[row][part],
                    arguments_.input.halves.values + source * matrix_.columns + depth * DEPTH + part * 8);
        }
    }

    __device__ void copy_weights(Buffers<Weights> &stage, int depth) const {
        constexpr int BLOCKS = Buffers<Weights>::BLOCKS;
        for (int index = threadIdx.x; index < MANY_PANELS * BLOCKS * PANEL / 4; index += THREADS) {
            const int of_panel = index % (BLOCKS * PANEL / 4), block = of_panel / (PANEL / 4);
            const int64_t panel_bytes = static_cast<int64_t>(matrix_.columns) * PANEL / 2 * Weights::WORDS;
            const int which = index / (BLOCKS * PANEL / 4);
            copy_16(&stage.weight[which][block][stage.place(block, of_panel % (PANEL / 4))],
                    matrix_.weight + panel(which) * panel_bytes + (depth * BLOCKS * PANEL / 4 + of_panel) * 16);
        }
        const int group = depth * DEPTH / matrix_.group_size, groups = matrix_.columns / matrix_.group_size;
        const int index = threadIdx.x;
        if (index < MANY_PANELS * PANEL / 8) {
            const int which = index / (PANEL / 8), part = index % (PANEL / 8);
            copy_16(&stage.scales[which][part],
                    matrix_.scales + (static_cast<int64_t>(panel(which)) * groups + group) * PANEL + part * 8);
        }
        if (matrix_.zeros != nullptr && index < MANY_PANELS * PANEL / 16) {
            const int which = index / (PANEL / 16), part = index % (PANEL / 16);
            copy_16(&stage.zeros[which][part],
                    matrix_.zeros + (static_cast<int64_t>(panel(which)) * groups + group) * PANEL + part * 16);
        }
    }

    // Lane 4g + t has the columns 8t to 8t + 7 of the stage, of the input's rows g and g + 8 of each tile and of the
    // weights' row g of each: the order of columns in a product is free.
    __device__ void multiply(const Buffers<Weights> &stage) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        uint4 input[ROW_TILES][2];
#pragma unroll
        for (int tile = 0; tile < ROW_TILES; ++tile) {
            const int row = warp_row() + tile * 16 + g;
            input[tile][0] = stage.input[row][t];
            input[tile][1] = stage.input[row + 8][t];
        }
#pragma unroll
        for (int tile = 0; tile < COLUMN_TILES; ++tile) {
            const int column = warp_column() + tile * 8 + g;
            __half2 pairs[4];
            load_weights(stage, column / PANEL, column % PANEL, t, pairs);
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i) {
                const uint4 &upper = input[i][0], &lower = input[i][1];
                const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
                const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
                multiply_16x8x16(sum_[i][tile], first, {bits_of(pairs[0]), bits_of(pairs[1])});
                multiply_16x8x16(sum_[i][tile], second, {bits_of(pairs[2]), bits_of(pairs[3])});
            }
        }
    }

    __device__ void load_weights(const Buffers<Weights> &stage, int which, int row, int t, __half2 (&pairs)[4]) const {
        uint32_t words[Weights::WORDS];
#pragma unroll
        for (int i = 0; i < Weights::WORDS; ++i) {
            const int block = t * Weights::WORDS + i;
            const auto *four =
                reinterpret_cast<const uint32_t *>(&stage.weight[which][block][stage.place(block, row / 4)]);
            words[i] = four[row % 4];
        }
        uint32_t zero = 8;
        if (matrix_.zeros != nullptr)
            zero = reinterpret_cast<const uint8_t *>(stage.zeros[which])[row];
        const __half2 scale =
            __half2half2(__ushort_as_half(reinterpret_cast<const uint16_t *>(stage.scales[which])[row]));
        Weights::widen(words, zero, levels_, pairs);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            pairs[i] = __hmul2(pairs[i], scale);
    }

    __device__ void write() const {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int tile = 0; tile < COLUMN_TILES; ++tile)
#pragma unroll
                for (int part = 0; part < 4; ++part) {
                    const int row = first_row_ + warp_row() + i * 16 + g + part / 2 * 8;
                    const int column = first_panel_ * PANEL + warp_column() + tile * 8 + 2 * t + part % 2;
                    if (row >= arguments_.count || column >= matrix_.rows)
                        continue;
                    float value = sum_[i][tile][part] * arguments_.input.halves.factors[row];
                    if (matrix_.bias != nullptr)
                        value += matrix_.bias[column];
                    float *target = arguments_.output + static_cast<int64_t>(row) * arguments_.output_stride + column;
                    *target = arguments_.add ? *target + value : value;
                }
    }

    __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / 128 * WARP_ROWS; }
    __device__ static int warp_column() { return static_cast<int>(threadIdx.x) / 32 % 4 * WARP_COLUMNS; }

    const LinearArguments &arguments_;
    const DeviceMatrix &matrix_;
    Buffers<Weights> *stages_;
    const uint16_t *levels_;
    int first_row_;
    int first_panel_;
    float sum_[ROW_TILES][COLUMN_TILES][4] = {};
};

template <class Weights>
__device__ void multiply_many(const LinearArguments &arguments) {
    __shared__ Buffers<Weights> stages[Weights::BUFFERS];
    __shared__ uint16_t levels[Weights::TABLE ? 16 : 1];
    if constexpr (Weights::TABLE) {
        constexpr int LEVELS[16] = {-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127};
        if (threadIdx.x < 16)
            levels[threadIdx.x] = half_bits(static_cast<float>(LEVELS[threadIdx.x]));
        __syncthreads();
    }
    Tile<Weights>(arguments, stages, levels).run();
}

// grid (panels / MANY_PANELS, count / MANY_ROWS) rounded up, 256 threads; the input is in halves.
#define V2E_MANY(name, weights)                                                                                        \
    V2E_KERNEL(v2e_many_##name, LinearArguments) {                                                                     \
        multiply_many<weights>(arguments);                                                                             \
    }

V2E_MANY(int4, Int4Weights)
V2E_MANY(nf4, Nf4Weights)
V2E_MANY(int8, Int8Weights)

#undef V2E_MANY

} // namespace v2e::cuda::many
