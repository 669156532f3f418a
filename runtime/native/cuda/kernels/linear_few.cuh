// Matrix products for few rows, as in a decode step: what counts is that weights stream from memory at its full speed,
// in the layout of the file. output (count, rows) = input (count, columns) * matrix^T + bias.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::few {

// A block makes FEW_ROWS outputs of COUNT rows. Eight lanes of a warp read the weights of these rows in one block of
// columns, four rows each: 128 bytes in one piece. The four such groups of a warp, and the warps, take turns with the
// blocks of columns. Each output is the sum over lanes and warps in a fixed order, whatever COUNT is.
struct Place {
    int quad; // (0 to 7): of four rows
    int part; // (0 to 3): which block of columns of the warp
    int warp;
    int warps;
    int panel;
    int row; // the first of the four, in the panel
    __device__ Place() {
        const int lane = threadIdx.x % 32;
        quad = lane % 8;
        part = lane / 8;
        warp = threadIdx.x / 32;
        warps = blockDim.x / 32;
        panel = blockIdx.x / (PANEL / FEW_ROWS);
        row = blockIdx.x % (PANEL / FEW_ROWS) * FEW_ROWS + quad * 4;
    }
};

// A weight is read once: it need not push anything out of the caches.
__device__ inline uint4 stream(const uint4 *address) {
#if defined(__CUDA_ARCH__)
    return __ldcs(address);
#else
    return *address;
#endif
}

__device__ inline uint32_t word_of(const uint4 &words, int index) {
    return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

// The levels of nf4 times 127 (docs/bundle.md, "Panels") for the two nibbles of every byte: low, then high.
__device__ inline void fill_levels(uint16_t *table) {
    constexpr int LEVELS[16] = {-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127};
    for (int code = threadIdx.x; code < 256; code += blockDim.x)
        table[code] = static_cast<uint16_t>((LEVELS[code & 15] & 255) | (LEVELS[code >> 4] & 255) << 8);
    __syncthreads();
}

// Eight weights of each of four rows against eight columns of the input: high and low products of whole numbers.
struct Int4 {
    static constexpr bool TABLE = false;
    static constexpr int STEP = 16; // uint4 of a block of columns
    uint4 words;
    __device__ void load(const uint4 *address) { words = stream(address); }
    __device__ int dot(int row, const uint4 &planes, const uint16_t *) const {
        const uint32_t word = word_of(words, row);
        const auto first = static_cast<int>(word & 0x0f0f0f0fu), second = static_cast<int>(word >> 4 & 0x0f0f0f0fu);
        const int high = __dp4a(first, static_cast<int>(planes.x), __dp4a(second, static_cast<int>(planes.y), 0));
        return __dp4a(first, static_cast<int>(planes.z), __dp4a(second, static_cast<int>(planes.w), high * 128));
    }
};

struct Nf4 {
    static constexpr bool TABLE = true;
    static constexpr int STEP = 16;
    uint4 words;
    __device__ void load(const uint4 *address) { words = stream(address); }
    __device__ int dot(int row, const uint4 &planes, const uint16_t *table) const {
        const uint32_t word = word_of(words, row);
        uint32_t first = 0, second = 0;
        for (int byte = 0; byte < 4; ++byte) {
            const uint32_t levels = table[word >> 8 * byte & 255u];
            first |= (levels & 255u) << 8 * byte;
            second |= (levels >> 8) << 8 * byte;
        }
        const int high = __dp4a(static_cast<int>(first), static_cast<int>(planes.x),
                                __dp4a(static_cast<int>(second), static_cast<int>(planes.y), 0));
        return __dp4a(static_cast<int>(first), static_cast<int>(planes.z),
                      __dp4a(static_cast<int>(second), static_cast<int>(planes.w), high * 128));
    }
};

struct Int8 {
    static constexpr bool TABLE = false;
    static constexpr int STEP = 32;
    uint4 first_words, second_words;
    __device__ void load(const uint4 *address) {
        first_words = stream(address);
        second_words = stream(address + 16);
    }
    __device__ int dot(int row, const uint4 &planes, const uint16_t *) const {
        const auto first = static_cast<int>(word_of(first_words, row) ^ 0x80808080u); // q + 128 to q
        const auto second = static_cast<int>(word_of(second_words, row) ^ 0x80808080u);
        const int high = __dp4a(first, static_cast<int>(planes.x), __dp4a(second, static_cast<int>(planes.y), 0));
        return __dp4a(first, static_cast<int>(planes.z), __dp4a(second, static_cast<int>(planes.w), high * 128));
    }
};

// Adds up what lanes and warps have of the same outputs, and writes them.
template <int COUNT>
__device__ void finish_few(const Place &place, float (&sum)[COUNT][4], const LinearArguments &arguments, int first) {
    __shared__ float shared[8][COUNT][FEW_ROWS]; // eight warps at most
    for (int row = 0; row < COUNT; ++row)
        for (int i = 0; i < 4; ++i) {
            float value = sum[row][i];
            value += __shfl_xor_sync(WHOLE_WARP, value, 8);
            value += __shfl_xor_sync(WHOLE_WARP, value, 16);
            if (place.part == 0)
                shared[place.warp][row][place.quad * 4 + i] = value;
        }
    __syncthreads();
    for (int index = threadIdx.x; index < COUNT * FEW_ROWS; index += blockDim.x) {
        const int row = index / FEW_ROWS, column = blockIdx.x * FEW_ROWS + index % FEW_ROWS;
        if (first + row >= arguments.count || column >= arguments.matrix.rows)
            continue;
        float value = arguments.matrix.bias == nullptr ? 0.0f : arguments.matrix.bias[column];
        for (int warp = 0; warp < place.warps; ++warp)
            value += shared[warp][row][index % FEW_ROWS];
        float *target = arguments.output + static_cast<int64_t>(first + row) * arguments.output_stride + column;
        *target = arguments.add ? *target + value : value;
    }
}

template <class Code, int COUNT>
__device__ void multiply_planes(const LinearArguments &arguments) {
    __shared__ uint16_t table[Code::TABLE ? 256 : 1];
    if constexpr (Code::TABLE)
        fill_levels(table);
    const Place place;
    const DeviceMatrix &matrix = arguments.matrix;
    const int first = blockIdx.y * COUNT, blocks = matrix.columns / 8, groups = matrix.columns / matrix.group_size;
    const auto *weight = reinterpret_cast<const uint4 *>(matrix.weight) +
                         static_cast<int64_t>(place.panel) * blocks * Code::STEP + place.row / 4;
    const int64_t group_row = static_cast<int64_t>(place.panel) * groups * PANEL + place.row;
    const Planes &planes = arguments.input.planes;
    const auto *values = reinterpret_cast<const uint4 *>(planes.values);
    float sum[COUNT][4] = {};
#pragma unroll 2
    for (int block = place.warp * 4 + place.part; block < blocks; block += place.warps * 4) {
        Code weights;
        weights.load(weight + static_cast<int64_t>(block) * Code::STEP);
        const int group = block * 8 / matrix.group_size;
        const auto packed = *reinterpret_cast<const uint2 *>(matrix.scales + group_row + group * PANEL);
        const uint32_t zeros = matrix.zeros == nullptr
                                   ? 0x08080808u
                                   : *reinterpret_cast<const uint32_t *>(matrix.zeros + group_row + group * PANEL);
        float scales[4];
        for (int i = 0; i < 4; ++i)
            scales[i] = half_value(static_cast<uint16_t>((i < 2 ? packed.x : packed.y) >> 16 * (i % 2)));
#pragma unroll
        for (int row = 0; row < COUNT; ++row) {
            const int64_t input = min(first + row, arguments.count - 1);
            const uint4 columns = values[input * blocks + block];
            const int all = planes.sums[input * blocks + block];
            const float scale = planes.scales[input * groups + group];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int whole = weights.dot(i, columns, table);
                if constexpr (Code::STEP == 16 && !Code::TABLE)
                    whole -= static_cast<int>(zeros >> 8 * i & 255u) * all;
                sum[row][i] += static_cast<float>(whole) * (scale * scales[i]);
            }
        }
    }
    finish_few<COUNT>(place, sum, arguments, first);
}

// Four neighbouring values of fp16 or fp32 weights as floats.
__device__ inline float4 load_four(const uint16_t *address) {
    const auto packed = *reinterpret_cast<const uint2 *>(address);
    return make_float4(half_value(static_cast<uint16_t>(packed.x)), half_value(static_cast<uint16_t>(packed.x >> 16)),
                       half_value(static_cast<uint16_t>(packed.y)), half_value(static_cast<uint16_t>(packed.y >> 16)));
}

__device__ inline float4 load_four(const float *address) {
    return *reinterpret_cast<const float4 *>(address);
}

template <class Element, int COUNT>
__device__ void multiply_floats(const LinearArguments &arguments) {
    const Place place;
    const DeviceMatrix &matrix = arguments.matrix;
    const int first = blockIdx.y * COUNT, columns = matrix.columns;
    const auto *weight = reinterpret_cast<const Element *>(matrix.weight) +
                         static_cast<int64_t>(place.panel) * columns * PANEL + place.row;
    float sum[COUNT][4] = {};
#pragma unroll 4
    for (int column = place.warp * 4 + place.part; column < columns; column += place.warps * 4) {
        const float4 four = load_four(weight + static_cast<int64_t>(column) * PANEL);
#pragma unroll
        for (int row = 0; row < COUNT; ++row) {
            const int64_t input = min(first + row, arguments.count - 1);
            const float value = arguments.input.floats[input * columns + column];
            sum[row][0] += value * four.x;
            sum[row][1] += value * four.y;
            sum[row][2] += value * four.z;
            sum[row][3] += value * four.w;
        }
    }
    finish_few<COUNT>(place, sum, arguments, first);
}

// grid (weight rows / FEW_ROWS, count / COUNT) rounded up, 256 threads. int4, nf4 and int8 read planes, the others
// floats.
#define V2E_FEW(name, multiply, weights, count)                                                                        \
    V2E_KERNEL(v2e_few_##name##_##count, LinearArguments) {                                                            \
        multiply<weights, count>(arguments);                                                                           \
    }

V2E_FEW(int4, multiply_planes, Int4, 1)
V2E_FEW(int4, multiply_planes, Int4, 2)
V2E_FEW(int4, multiply_planes, Int4, 4)
V2E_FEW(int4, multiply_planes, Int4, 8)
V2E_FEW(nf4, multiply_planes, Nf4, 1)
V2E_FEW(nf4, multiply_planes, Nf4, 4)
V2E_FEW(int8, multiply_planes, Int8, 1)
V2E_FEW(int8, multiply_planes, Int8, 2)
V2E_FEW(int8, multiply_planes, Int8, 4)
V2E_FEW(int8, multiply_planes, Int8, 8)
V2E_FEW(fp16, multiply_floats, uint16_t, 1)
V2E_FEW(fp16, multiply_floats, uint16_t, 4)
V2E_FEW(fp32, multiply_floats, float, 1)
V2E_FEW(fp32, multiply_floats, float, 4)

#undef V2E_FEW

} // namespace v2e::cuda::few
