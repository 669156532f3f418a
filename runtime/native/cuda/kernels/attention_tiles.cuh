// Attention of many rows over the cache with tensor cores, after Dao et al. (2022), "FlashAttention", algorithm 1, and
// Dao (2023), "FlashAttention-2", section 3.1: scores exist for one tile of keys at a time.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::tiles {

constexpr int THREADS = 128;
constexpr int ROWS = 64; // rows of one query head in a block, sixteen to a warp
constexpr int KEYS = 64; // keys of a tile; divides KV_PAGE
constexpr int KEY_TILES = KEYS / 8;
constexpr float MINUS_INFINITY = -3.402823466e+38f;

// A tile in shared memory, rows of HEAD_SIZE halves in pieces of eight. Pieces change places within a row, so that
// those which a warp reads together lie in different banks: two rows by four pieces of keys, eight rows of values.
template <int HEAD_SIZE>
struct Tiles {
    static constexpr int PIECES = HEAD_SIZE / 8;
    uint4 keys[KEYS][PIECES];
    uint4 values[KEYS][PIECES];
    float key_steps[KEYS]; // int8 only
    float value_steps[KEYS];

    __device__ static int key_place(int row, int piece) { return piece ^ (row % 2 * 4); }
    __device__ static int value_place(int row, int piece) { return piece ^ row % 8; }
};

__device__ inline uint4 load_halves(const uint16_t *address) {
    return *reinterpret_cast<const uint4 *>(address);
}

__device__ inline uint4 load_halves(const int8_t *address) {
    const uint2 packed = *reinterpret_cast<const uint2 *>(address);
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t word = (i < 2 ? packed.x : packed.y) >> 16 * (i % 2);
        words[i] = bits_of(__floats2half2_rn(static_cast<float>(static_cast<int8_t>(word)),
                                             static_cast<float>(static_cast<int8_t>(word >> 8))));
    }
    return {words[0], words[1], words[2], words[3]};
}

template <class Element, int HEAD_SIZE>
class TileAttention {
  public:
    __device__ TileAttention(const AttentionArguments &arguments, Tiles<HEAD_SIZE> &tiles)
        : arguments_(arguments), tiles_(tiles), head_(static_cast<int>(blockIdx.y)),
          first_row_(static_cast<int>(blockIdx.x) * ROWS),
          first_position_(*arguments.cache.position + arguments.first_row) {
        const int lane = threadIdx.x % 32;
        g_ = lane / 4;
        t_ = lane % 4;
        row_[0] = first_row_ + static_cast<int>(threadIdx.x) / 32 * 16 + g_;
        row_[1] = row_[0] + 8;
    }

    __device__ void run() {
        load_queries();
        const int last = first_position_ + min(first_row_ + ROWS, arguments_.rows) - 1;
        for (int key = 0; key <= last; key += KEYS) {
            __syncthreads(); // everyone is done with the tile before
            load_tile(key, first_position_ + arguments_.rows);
            __syncthreads();
            score();
            soften(key);
            accumulate();
        }
        write();
    }

  private:
    static constexpr int STEPS = HEAD_SIZE / 32; // a step has 32 channels, a lane eight of them
    static constexpr int CHANNEL_TILES = HEAD_SIZE / 8;

    // The queries are scaled, and each is the sum of two halves: a score then has the precision of fp32.
    __device__ void load_queries() {
        const int64_t stride = arguments_.query_stride;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int64_t row = min(row_[half], arguments_.rows - 1); // more are not written
            const float *query = arguments_.queries + row * stride + head_ * HEAD_SIZE;
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
#pragma unroll
                for (int pair = 0; pair < 4; ++pair) {
                    const float x = query[step * 32 + t_ * 8 + pair * 2] * arguments_.score_scale;
                    const float y = query[step * 32 + t_ * 8 + pair * 2 + 1] * arguments_.score_scale;
                    const uint32_t high = bits_of(__floats2half2_rn(x, y));
                    query_[step][pair][half] = high;
                    rest_[step][pair][half] =
                        bits_of(__floats2half2_rn(x - half_value(static_cast<uint16_t>(high)),
                                                  y - half_value(static_cast<uint16_t>(high >> 16))));
                }
        }
    }

    // Keys behind `end` are nothing: the cache may hold anything there, NaNs of a failed call too.
    __device__ void load_tile(int first, int end) {
        const CacheArguments &cache = arguments_.cache;
        const int kv_head = head_ / (arguments_.heads / arguments_.kv_heads), slot = first % KV_PAGE;
        const uint8_t *page = cache.pages[first / KV_PAGE] + cache.offset + kv_head * cache.head_bytes;
        const auto *keys = reinterpret_cast<const Element *>(page), *values = keys + KV_PAGE * HEAD_SIZE;
        for (int index = threadIdx.x; index < KEYS * Tiles<HEAD_SIZE>::PIECES; index += THREADS) {
            const int row = index / Tiles<HEAD_SIZE>::PIECES, piece = index % Tiles<HEAD_SIZE>::PIECES;
            const int64_t source = static_cast<int64_t>(slot + row) * HEAD_SIZE + piece * 8;
            const bool there = first + row < end;
            tiles_.keys[row][tiles_.key_place(row, piece)] = there ? load_halves(keys + source) : uint4{0, 0, 0, 0};
            tiles_.values[row][tiles_.value_place(row, piece)] =
                there ? load_halves(values + source) : uint4{0, 0, 0, 0};
        }
        if constexpr (sizeof(Element) == 1) {
            const auto *steps = reinterpret_cast<const float *>(values + KV_PAGE * HEAD_SIZE);
            for (int row = threadIdx.x; row < KEYS; row += THREADS) {
                const bool there = first + row < end;
                tiles_.key_steps[row] = there ? steps[slot + row] : 0.0f;
                tiles_.value_steps[row] = there ? steps[KV_PAGE + slot + row] : 0.0f;
            }
        }
    }

    // Lane 4g + t has channels 8t to 8t + 7 of each step, of the queries' rows g and g + 8 and of key g of each tile:
    // the order of channels in a product is free.
    __device__ void score() {
#pragma unroll
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            for (float &value : scores_[tile])
                value = 0.0f;
            const int key = tile * 8 + g_;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const uint4 piece = tiles_.keys[key][tiles_.key_place(key, step * 4 + t_)];
                multiply_step(scores_[tile], query_[step], piece);
                multiply_step(scores_[tile], rest_[step], piece);
            }
        }
    }

    __device__ static void multiply_step(float (&sum)[4], const uint32_t (&query)[4][2], const uint4 &piece) {
        const uint32_t first[4] = {query[0][0], query[0][1], query[1][0], query[1][1]};
        const uint32_t second[4] = {query[2][0], query[2][1], query[3][0], query[3][1]};
        multiply_16x8x16(sum, first, {piece.x, piece.y});
        multiply_16x8x16(sum, second, {piece.z, piece.w});
    }

    // Scores to weights relative to the running maximum of each row, which four lanes share.
    __device__ void soften(int first) {
        float largest[2] = {maximum_[0], maximum_[1]}, total[2] = {};
#pragma unroll
        for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int key = tile * 8 + 2 * t_ + i % 2;
                if constexpr (sizeof(Element) == 1)
                    scores_[tile][i] *= tiles_.key_steps[key];
                if (first + key > first_position_ + row_[i / 2])
                    scores_[tile][i] = MINUS_INFINITY;
                largest[i / 2] = Largest::join(largest[i / 2], scores_[tile][i]);
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            largest[half] = Largest::join(largest[half], __shfl_xor_sync(WHOLE_WARP, largest[half], 1));
            largest[half] = Largest::join(largest[half], __shfl_xor_sync(WHOLE_WARP, largest[half], 2));
            const float correction = expf(maximum_[half] - largest[half]);
            maximum_[half] = largest[half];
            total_[half] *= correction;
#pragma unroll
            for (int tile = 0; tile < CHANNEL_TILES; ++tile) {
                sums_[tile][half * 2] *= correction;
                sums_[tile][half * 2 + 1] *= correction;
            }
        }
#pragma unroll
        for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float weight = expf(scores_[tile][i] - largest[i / 2]);
                total[i / 2] += weight;
                scores_[tile][i] = weight;
                if constexpr (sizeof(Element) == 1)
                    scores_[tile][i] *= tiles_.value_steps[tile * 8 + 2 * t_ + i % 2];
            }
        total_[0] += total[0];
        total_[1] += total[1];
    }

    // The weights of two tiles of eight keys lie in the lanes as the next product wants its rows.
    __device__ void accumulate() {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            const float (&left)[4] = scores_[2 * step], (&right)[4] = scores_[2 * step + 1];
            const uint32_t weights[4] = {
                bits_of(__floats2half2_rn(left[0], left[1])), bits_of(__floats2half2_rn(left[2], left[3])),
                bits_of(__floats2half2_rn(right[0], right[1])), bits_of(__floats2half2_rn(right[2], right[3]))};
            const int key = step * 16 + lane % 16;
#pragma unroll
            for (int tile = 0; tile < CHANNEL_TILES; tile += 2) {
                uint32_t values[4];
                load_transposed(values, &tiles_.values[key][tiles_.value_place(key, tile + lane / 16)]);
                multiply_16x8x16(sums_[tile], weights, {values[0], values[1]});
                multiply_16x8x16(sums_[tile + 1], weights, {values[2], values[3]});
            }
        }
    }

    __device__ void write() {
        bool finite = true;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = total_[half];
            total += __shfl_xor_sync(WHOLE_WARP, total, 1);
            total += __shfl_xor_sync(WHOLE_WARP, total, 2);
            if (row_[half] >= arguments_.rows)
                continue;
            float *output =
                arguments_.output + (static_cast<int64_t>(row_[half]) * arguments_.heads + head_) * HEAD_SIZE;
#pragma unroll
            for (int tile = 0; tile < CHANNEL_TILES; ++tile)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float value = sums_[tile][half * 2 + i] / total;
                    finite = finite && is_finite(value);
                    output[tile * 8 + 2 * t_ + i] = value;
                }
        }
        note_failure(arguments_.status, arguments_.stage, finite);
    }

    const AttentionArguments &arguments_;
    Tiles<HEAD_SIZE> &tiles_;
    int head_, first_row_, first_position_, g_, t_;
    int row_[2]; // this lane's rows of the chunk
    uint32_t query_[STEPS][4][2], rest_[STEPS][4][2];
    float scores_[KEY_TILES][4];
    float sums_[CHANNEL_TILES][4] = {};
    float maximum_[2] = {MINUS_INFINITY, MINUS_INFINITY};
    float total_[2] = {}; // sums of the weights of this lane's keys
};

template <class Element, int HEAD_SIZE>
__device__ void attend_tiles(const AttentionArguments &arguments) {
    __shared__ Tiles<HEAD_SIZE> tiles;
    TileAttention<Element, HEAD_SIZE>(arguments, tiles).run();
}

// grid (rows / 64 rounded up, heads), 128 threads; by the size of a head.
V2E_KERNEL(v2e_attend_tiles_fp16_64, AttentionArguments) {
    attend_tiles<uint16_t, 64>(arguments);
}
V2E_KERNEL(v2e_attend_tiles_fp16_128, AttentionArguments) {
    attend_tiles<uint16_t, 128>(arguments);
}
V2E_KERNEL(v2e_attend_tiles_int8_64, AttentionArguments) {
    attend_tiles<int8_t, 64>(arguments);
}
V2E_KERNEL(v2e_attend_tiles_int8_128, AttentionArguments) {
    attend_tiles<int8_t, 128>(arguments);
}

} // namespace v2e::cuda::tiles
