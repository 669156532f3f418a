// Keys and values: their rotation on the way into the cache, and attention over them.
#pragma once

#include "cuda/kernels/device.cuh"

namespace v2e::cuda::attention {

constexpr int ROTATE_WARPS = 8;
constexpr int THREADS = 128; // threads of a block
constexpr int SLOTS = 16;    // keys that a block scores at a time, by eight lanes each
constexpr int PAIRS = 2;     // most pairs of channels of a thread: MOST_HEAD_SIZE / 2 / THREADS
constexpr float MINUS_INFINITY = -3.402823466e+38f;

__device__ inline int64_t element_bytes(int precision) {
    return precision == CACHE_INT8 ? 1 : precision == CACHE_FP16 ? 2 : 4;
}

// What one kv head has of one page.
struct PageView {
    uint8_t *keys;
    uint8_t *values;
    float *key_steps; // int8 only
    float *value_steps;
    __device__ PageView(const CacheArguments &cache, int kv_head, int position, int head_size) {
        keys = cache.pages[position / KV_PAGE] + cache.offset + kv_head * cache.head_bytes;
        values = keys + KV_PAGE * head_size * element_bytes(cache.precision);
        key_steps = reinterpret_cast<float *>(values + KV_PAGE * head_size * element_bytes(cache.precision));
        value_steps = key_steps + KV_PAGE;
    }
};

// Hadamard's matrix, after Sylvester, scaled to be orthogonal, times one head: as Ashkboos et al. (2024), "QuaRot",
// section 4, have it for a KV cache. Heads are cut into the largest parts that are powers of two.
__device__ inline void spread(float *head, int head_size) {
    const int lane = threadIdx.x % 32, part = head_size & -head_size;
    for (int width = 1; width < part; width *= 2) {
        __syncwarp();
        for (int pair = lane; pair < head_size / 2; pair += 32) {
            const int place = pair / width * 2 * width + pair % width;
            const float first = head[place], second = head[place + width];
            head[place] = first + second;
            head[place + width] = first - second;
        }
    }
    __syncwarp();
    const float factor = 1.0f / sqrtf(static_cast<float>(part));
    for (int channel = lane; channel < head_size; channel += 32)
        head[channel] *= factor;
    __syncwarp();
}

// A warp stores one head in the place of its position.
__device__ inline void store_head(const float *head, int head_size, int precision, int slot, uint8_t *target,
                                  float *steps) {
    const int lane = threadIdx.x % 32;
    const int64_t first = static_cast<int64_t>(slot) * head_size;
    if (precision == CACHE_INT8) {
        float largest = 0.0f;
        for (int channel = lane; channel < head_size; channel += 32)
            largest = Largest::join(largest, fabsf(head[channel]));
        largest = join_warp<Largest>(largest);
        const bool some = largest > 1e-30f;
        const float factor = some ? 127.0f / largest : 0.0f;
        for (int channel = lane; channel < head_size; channel += 32)
            target[first + channel] = static_cast<uint8_t>(__float2int_rn(head[channel] * factor));
        if (lane == 0)
            steps[slot] = some ? largest / 127.0f : 0.0f;
        return;
    }
    for (int channel = lane; channel < head_size; channel += 32) {
        if (precision == CACHE_FP16)
            reinterpret_cast<uint16_t *>(target)[first + channel] = half_bits(head[channel]);
        else
            reinterpret_cast<float *>(target)[first + channel] = head[channel];
    }
}

// Eight neighbouring channels as floats.
__device__ inline void load_eight(const float *address, float (&values)[8]) {
    for (int i = 0; i < 8; i += 4) {
        const float4 four = *reinterpret_cast<const float4 *>(address + i);
        values[i] = four.x;
        values[i + 1] = four.y;
        values[i + 2] = four.z;
        values[i + 3] = four.w;
    }
}
__device__ inline void load_eight(const uint16_t *address, float (&values)[8]) {
    const uint4 packed = *reinterpret_cast<const uint4 *>(address);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
    for (int i = 0; i < 8; ++i)
        values[i] = half_value(static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2)));
}
__device__ inline void load_eight(const int8_t *address, float (&values)[8]) {
    const uint2 packed = *reinterpret_cast<const uint2 *>(address);
    for (int i = 0; i < 8; ++i)
        values[i] = static_cast<float>(static_cast<int8_t>((i < 4 ? packed.x : packed.y) >> 8 * (i % 4)));
}

__device__ inline float2 load_pair(const float *address) {
    return *reinterpret_cast<const float2 *>(address);
}
__device__ inline float2 load_pair(const uint16_t *address) {
    const uint32_t packed = *reinterpret_cast<const uint32_t *>(address);
    return make_float2(half_value(static_cast<uint16_t>(packed)), half_value(static_cast<uint16_t>(packed >> 16)));
}
__device__ inline float2 load_pair(const int8_t *address) {
    const uint16_t packed = *reinterpret_cast<const uint16_t *>(address);
    return make_float2(static_cast<float>(static_cast<int8_t>(packed)),
                       static_cast<float>(static_cast<int8_t>(packed >> 8)));
}

struct Shared {
    float queries[MOST_HEADS][MOST_HEAD_SIZE]; // later sums
    float weights[MOST_HEADS][KEY_SEGMENT];    // scores first
    float maximum[MOST_HEADS];
    float total[MOST_HEADS];
    float correction[MOST_HEADS];
};

// One row's query heads that share a kv head, MOST_HEADS of them at most, over some segments of keys: online softmax
// after Milakov and Gimelshein (2018), "Online normalizer calculation for softmax", section 3.
template <class Element>
class RowAttention {
  public:
    __device__ RowAttention(const AttentionArguments &arguments, Shared &shared)
        : arguments_(arguments), shared_(shared), head_size_(arguments.head_size) {
        const int group = arguments.heads / arguments.kv_heads;
        const int parts = (group + MOST_HEADS - 1) / MOST_HEADS, part = static_cast<int>(blockIdx.y) % parts;
        kv_head_ = static_cast<int>(blockIdx.y) / parts;
        first_head_ = kv_head_ * group + part * MOST_HEADS;
        heads_ = min(MOST_HEADS, group - part * MOST_HEADS);
        row_ = static_cast<int>(blockIdx.z);
        position_ = *arguments.cache.position + arguments.first_row + row_;
        pairs_ = head_size_ / 2;
        key_groups_ = max(1, THREADS / pairs_);
        key_group_ = static_cast<int>(threadIdx.x) / pairs_; // with more pairs than threads there is only one
        if (pairs_ > THREADS)
            key_group_ = 0;
    }

    __device__ int position() const { return position_; }

    __device__ void begin() {
        const float *queries =
            arguments_.queries + static_cast<int64_t>(row_) * arguments_.query_stride + first_head_ * head_size_;
        for (int index = threadIdx.x; index < heads_ * head_size_; index += THREADS)
            shared_.queries[index / head_size_][index % head_size_] = queries[index];
        if (threadIdx.x < MOST_HEADS) {
            shared_.maximum[threadIdx.x] = MINUS_INFINITY;
            shared_.total[threadIdx.x] = 0.0f;
        }
        __syncthreads();
    }

    __device__ void add_segment(int segment) {
        const int first = segment * KEY_SEGMENT, keys = min(KEY_SEGMENT, position_ + 1 - first);
        const PageView page(arguments_.cache, kv_head_, first, head_size_);
        const int slot = first % KV_PAGE;
        score(page, slot, keys);
        __syncthreads();
        soften(page, slot, keys);
        __syncthreads();
        accumulate(page, slot, keys);
        __syncthreads(); // before the weights are those of the next segment
    }

    // Leaves the sums of all key groups in shared_.queries.
    __device__ void join_groups() {
        for (int group = 0; group < key_groups_; ++group) {
            if (key_group_ == group)
                for (int j = 0; j < PAIRS; ++j) {
                    const int channel = pair(j) * 2;
                    if (channel >= head_size_)
                        continue;
                    for (int head = 0; head < heads_; ++head) {
                        float *sums = shared_.queries[head] + channel;
                        sums[0] = sum_[head][j].x + (group == 0 ? 0.0f : sums[0]);
                        sums[1] = sum_[head][j].y + (group == 0 ? 0.0f : sums[1]);
                    }
                }
            __syncthreads();
        }
    }

    __device__ void write_partial(int segment) const {
        for (int index = threadIdx.x; index < heads_ * (head_size_ + 2); index += THREADS) {
            const int head = index / (head_size_ + 2), channel = index % (head_size_ + 2);
            const int64_t place = static_cast<int64_t>(row_) * arguments_.heads + first_head_ + head;
            arguments_.partials[(place * arguments_.segments + segment) * (head_size_ + 2) + channel] =
                channel < head_size_    ? shared_.queries[head][channel]
                : channel == head_size_ ? shared_.maximum[head]
                                        : shared_.total[head];
        }
    }

    __device__ void write_output() const {
        bool finite = true;
        float *output = arguments_.output + (static_cast<int64_t>(row_) * arguments_.heads + first_head_) * head_size_;
        for (int index = threadIdx.x; index < heads_ * head_size_; index += THREADS) {
            const int head = index / head_size_;
            const float value = shared_.queries[head][index % head_size_] / shared_.total[head];
            finite = finite && is_finite(value);
            output[index] = value;
        }
        note_failure(arguments_.status, arguments_.stage, finite);
    }

  private:
    __device__ int pair(int j) const {
        return pairs_ > THREADS ? static_cast<int>(threadIdx.x) + j * THREADS
               : j == 0         ? static_cast<int>(threadIdx.x) % pairs_
                                : pairs_;
    }

    __device__ void score(const PageView &page, int slot, int keys) {
        const auto *elements = reinterpret_cast<const Element *>(page.keys);
        const int sub = threadIdx.x % 8;
        for (int first = 0; first < KEY_SEGMENT; first += SLOTS) {
            const int key = first + static_cast<int>(threadIdx.x) / 8;
            float dot[MOST_HEADS] = {};
            if (key < keys)
                for (int channel = sub * 8; channel < head_size_; channel += 64) {
                    float values[8];
                    load_eight(elements + static_cast<int64_t>(slot + key) * head_size_ + channel, values);
#pragma unroll
                    for (int head = 0; head < MOST_HEADS; ++head)
                        if (head < heads_)
                            for (int i = 0; i < 8; ++i)
                                dot[head] += shared_.queries[head][channel + i] * values[i];
                }
            float scale = arguments_.score_scale;
            if (sizeof(Element) == 1 && key < keys)
                scale *= page.key_steps[slot + key];
#pragma unroll
            for (int head = 0; head < MOST_HEADS; ++head) {
                if (head >= heads_)
                    break;
                float value = dot[head];
                for (int distance = 1; distance < 8; distance *= 2)
                    value += __shfl_xor_sync(WHOLE_WARP, value, distance);
                if (sub == 0 && key < keys)
                    shared_.weights[head][key] = value * scale;
            }
        }
    }

    // Turns scores into weights relative to the running maximum; for int8 times the values' steps. A warp has a head.
    __device__ void soften(const PageView &page, int slot, int keys) {
        const int lane = threadIdx.x % 32;
        for (int head = threadIdx.x / 32; head < heads_; head += THREADS / 32) {
            float *weights = shared_.weights[head];
            const float before = shared_.maximum[head];
            float largest = before;
            for (int key = lane; key < keys; key += 32)
                largest = Largest::join(largest, weights[key]);
            largest = join_warp<Largest>(largest);
            float total = 0.0f;
            for (int key = lane; key < keys; key += 32) {
                const float weight = expf(weights[key] - largest);
                total += weight;
                weights[key] = sizeof(Element) == 1 ? weight * page.value_steps[slot + key] : weight;
            }
            total = join_warp<Sum>(total);
            if (lane == 0) {
                const float correction = expf(before - largest);
                shared_.correction[head] = correction;
                shared_.total[head] = shared_.total[head] * correction + total;
                shared_.maximum[head] = largest;
            }
        }
    }

    // Keys behind `keys` are not read: the cache may hold anything there, NaNs of a failed call too.
    __device__ void accumulate(const PageView &page, int slot, int keys) {
        const auto *elements = reinterpret_cast<const Element *>(page.values);
        if (key_group_ >= key_groups_)
            return; // more threads than whole groups
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            const int channel = pair(j) * 2;
            if (channel >= head_size_)
                continue;
#pragma unroll
            for (int head = 0; head < MOST_HEADS; ++head)
                if (head < heads_) {
                    sum_[head][j].x *= shared_.correction[head];
                    sum_[head][j].y *= shared_.correction[head];
                }
#pragma unroll 4
            for (int key = key_group_; key < keys; key += key_groups_) {
                const float2 value = load_pair(elements + static_cast<int64_t>(slot + key) * head_size_ + channel);
#pragma unroll
                for (int head = 0; head < MOST_HEADS; ++head)
                    if (head < heads_) {
                        sum_[head][j].x += shared_.weights[head][key] * value.x;
                        sum_[head][j].y += shared_.weights[head][key] * value.y;
                    }
            }
        }
    }

    const AttentionArguments &arguments_;
    Shared &shared_;
    int head_size_, kv_head_, first_head_, heads_, row_, position_, pairs_, key_groups_, key_group_;
    float2 sum_[MOST_HEADS][PAIRS] = {};
};

// Attends over one segment of keys, in a decode step, where few rows must keep the whole device busy.
template <class Element>
__device__ void attend_segment(const AttentionArguments &arguments) {
    __shared__ Shared shared;
    RowAttention<Element> attention(arguments, shared);
    const int segment = static_cast<int>(blockIdx.x);
    if (segment * KEY_SEGMENT > attention.position())
        return;
    attention.begin();
    attention.add_segment(segment);
    attention.join_groups();
    attention.write_partial(segment);
}

// Attends over all keys, where the rows are many.
template <class Element>
__device__ void attend_whole(const AttentionArguments &arguments) {
    __shared__ Shared shared;
    RowAttention<Element> attention(arguments, shared);
    attention.begin();
    for (int segment = 0; segment * KEY_SEGMENT <= attention.position(); ++segment)
        attention.add_segment(segment);
    attention.join_groups();
    attention.write_output();
}

// Rotates queries and keys (Su et al. 2021, "RoFormer", section 3.4.2) and puts keys and values into the cache.
// grid ((heads + 2 * kv_heads) / 8 rounded up, rows), 256 threads: a warp has a head.
V2E_KERNEL(v2e_rotate_rows, RotateArguments) {
    __shared__ float shared[ROTATE_WARPS][MOST_HEAD_SIZE];
    const int lane = threadIdx.x % 32, head_size = arguments.head_size, half = head_size / 2;
    const int head = static_cast<int>(blockIdx.x * ROTATE_WARPS + threadIdx.x / 32);
    const int all = arguments.heads + 2 * arguments.kv_heads, rotated = arguments.heads + arguments.kv_heads;
    if (head >= all)
        return; // from here on only warps wait for each other
    float *values = shared[threadIdx.x / 32];
    float *row = arguments.qkv + (static_cast<int64_t>(blockIdx.y) * all + head) * head_size;
    const int position = *arguments.cache.position + static_cast<int>(blockIdx.y);
    bool finite = true;
    for (int channel = lane; channel < head_size; channel += 32) {
        values[channel] = row[channel];
        finite = finite && is_finite(row[channel]);
    }
    note_failure(arguments.status, arguments.stage, finite);
    __syncwarp();
    if (head < rotated) {
        for (int i = lane; i < half; i += 32) {
            const float angle = static_cast<float>(position) * arguments.frequencies[i];
            const float cosine = cosf(angle), sine = sinf(angle);
            const float first = values[i], second = values[i + half];
            values[i] = first * cosine - second * sine;
            values[i + half] = second * cosine + first * sine;
        }
        __syncwarp();
        // A few channels of Qwen's keys are far larger than the rest and would leave it no steps.
        if (arguments.cache.precision == CACHE_INT8)
            spread(values, head_size);
    }
    if (head < arguments.heads) {
        for (int channel = lane; channel < head_size; channel += 32)
            row[channel] = values[channel];
        return;
    }
    const bool is_key = head < rotated;
    const int kv_head = head - (is_key ? arguments.heads : rotated);
    const PageView page(arguments.cache, kv_head, position, head_size);
    store_head(values, head_size, arguments.cache.precision, position % KV_PAGE, is_key ? page.keys : page.values,
               is_key ? page.key_steps : page.value_steps);
}

// Attention of single rows. Both: 128 threads, grid (1 or segments, kv_heads * parts of a group, rows). `segment`
// leaves partials, `whole` the output.
V2E_KERNEL(v2e_attend_segment_fp32, AttentionArguments) {
    attend_segment<float>(arguments);
}
V2E_KERNEL(v2e_attend_segment_fp16, AttentionArguments) {
    attend_segment<uint16_t>(arguments);
}
V2E_KERNEL(v2e_attend_segment_int8, AttentionArguments) {
    attend_segment<int8_t>(arguments);
}
V2E_KERNEL(v2e_attend_whole_fp32, AttentionArguments) {
    attend_whole<float>(arguments);
}
V2E_KERNEL(v2e_attend_whole_fp16, AttentionArguments) {
    attend_whole<uint16_t>(arguments);
}
V2E_KERNEL(v2e_attend_whole_int8, AttentionArguments) {
    attend_whole<int8_t>(arguments);
}

// Joins the partials of all segments. grid (heads, rows), 128 threads.
V2E_KERNEL(v2e_join_segments, AttentionArguments) {
    const int head_size = arguments.head_size, stride = head_size + 2;
    const int position = *arguments.cache.position + arguments.first_row + static_cast<int>(blockIdx.y);
    const int segments = position / KEY_SEGMENT + 1;
    const int64_t place = static_cast<int64_t>(blockIdx.y) * arguments.heads + blockIdx.x;
    const float *partials = arguments.partials + place * arguments.segments * stride;
    float maximum = MINUS_INFINITY, total = 0.0f;
    for (int segment = 0; segment < segments; ++segment)
        maximum = Largest::join(maximum, partials[segment * stride + head_size]);
    for (int segment = 0; segment < segments; ++segment)
        total += expf(partials[segment * stride + head_size] - maximum) * partials[segment * stride + head_size + 1];
    bool finite = true;
    for (int channel = threadIdx.x; channel < head_size; channel += blockDim.x) {
        float sum = 0.0f;
        for (int segment = 0; segment < segments; ++segment)
            sum += expf(partials[segment * stride + head_size] - maximum) * partials[segment * stride + channel];
        const float value = sum / total;
        finite = finite && is_finite(value);
        arguments.output[place * head_size + channel] = value;
    }
    note_failure(arguments.status, arguments.stage, finite);
}

} // namespace v2e::cuda::attention
