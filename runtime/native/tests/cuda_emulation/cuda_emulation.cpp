#include "tests/cuda_emulation/cuda_emulation.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr unsigned LANES = 32;

std::deque<Kernel> &kernels() {
    static std::deque<Kernel> all;
    return all;
}

struct Copy {
    void *target;
    const void *source;
};

// One thread of a block, which keeps its place while others run.
struct Fiber {
    std::unique_ptr<std::byte[]> stack;
#if defined(__x86_64__)
    void *place = nullptr;
#else
    ucontext_t place;
#endif
    Index index{};
    std::vector<Copy> copies; // the group that is not committed yet
    std::deque<std::vector<Copy>> groups;
    const unsigned *waits_for = nullptr; // a generation, until it is no longer `since`
    unsigned since = 0;
    bool done = false;
};

struct Warp {
    unsigned arrived = 0;
    unsigned generation = 0;
    const char *what = nullptr;
    // Indexed by the parity of the generation: no fiber can be two generations ahead.
    std::array<std::array<uint64_t, LANES>, 2> values;
    std::array<std::array<std::array<uint32_t, 6>, LANES>, 2> fragments;
    float products[2][16][8];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned threads = 0;
    unsigned arrived = 0;
    unsigned generation = 0;
    unsigned live = 0;
    Fiber *running = nullptr;
    const Kernel *kernel = nullptr;
    const void *arguments = nullptr;
};
Block block;

#if defined(__x86_64__)
// Saves what a call must keep (System V ABI, figure 3.4) and goes on where `to` was saved.
__attribute__((naked, noinline)) void switch_to(void **, void *) {
    asm("push %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
        "mov %rsp, (%rdi)\n\tmov %rsi, %rsp\n\t"
        "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret");
}
void *scheduler;

void leave(Fiber &fiber) {
    switch_to(&fiber.place, scheduler);
}
void enter(Fiber &fiber) {
    switch_to(&scheduler, fiber.place);
}
#else
ucontext_t scheduler;

void leave(Fiber &fiber) {
    swapcontext(&fiber.place, &scheduler);
}
void enter(Fiber &fiber) {
    swapcontext(&scheduler, &fiber.place);
}
#endif

void run_thread() {
    block.kernel->call(block.arguments);
    block.running->done = true;
    --block.live;
    leave(*block.running);
    stop("a thread went on after its end");
}

void prepare(Fiber &fiber) {
    if (fiber.stack == nullptr)
        fiber.stack.reset(new std::byte[STACK_BYTES]);
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.copies.clear();
    fiber.groups.clear();
#if defined(__x86_64__)
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + STACK_BYTES) & ~uintptr_t{15};
    auto **words = reinterpret_cast<void **>(top);
    words[-2] = reinterpret_cast<void *>(&run_thread); // as if called: the stack is 8 below a multiple of 16
    for (int i = 3; i <= 8; ++i)
        words[-i] = nullptr;
    fiber.place = words - 8;
#else
    getcontext(&fiber.place);
    fiber.place.uc_stack.ss_sp = fiber.stack.get();
    fiber.place.uc_stack.ss_size = STACK_BYTES;
    fiber.place.uc_link = nullptr;
    makecontext(&fiber.place, run_thread, 0);
#endif
}

void run_block() {
    block.live = block.threads;
    block.arrived = 0;
    for (unsigned i = 0; i < block.threads; ++i) {
        prepare(block.fibers[i]);
        block.fibers[i].index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
    }
    for (Warp &warp : block.warps)
        warp.arrived = 0;
    while (block.live > 0) {
        bool moved = false;
        for (unsigned i = 0; i < block.threads; ++i) {
            Fiber &fiber = block.fibers[i];
            if (fiber.done || (fiber.waits_for != nullptr && *fiber.waits_for == fiber.since))
                continue;
            fiber.waits_for = nullptr;
            moved = true;
            block.running = &fiber;
            thread_index = fiber.index;
            enter(fiber);
        }
        if (!moved)
            stop("threads wait for others that have ended or wait elsewhere");
    }
}

Warp &own_warp() {
    return block.warps[static_cast<size_t>(block.running - block.fibers.data()) / LANES];
}

void wait_until_changed(const unsigned &generation) {
    Fiber &fiber = *block.running;
    fiber.waits_for = &generation;
    fiber.since = generation;
    leave(fiber);
    thread_index = fiber.index;
}

// Returns true for the lane that arrives last, before the others go on.
bool arrive(Warp &warp, const char *what) {
    if (warp.arrived == 0)
        warp.what = what;
    else if (std::strcmp(warp.what, what) != 0)
        stop("lanes of a warp do different things together");
    return ++warp.arrived == LANES;
}

void release(Warp &warp) {
    warp.arrived = 0;
    ++warp.generation;
}

void multiply_warp(Warp &warp, unsigned parity) {
    float a[16][16], b[16][8]; // (row, depth), (depth, column)
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const auto &fragment = warp.fragments[parity][lane];
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; ++i)
            for (unsigned j = 0; j < 2; ++j)
                a[g + i % 2 * 8][2 * t + i / 2 * 8 + j] = half_to_float(static_cast<uint16_t>(fragment[i] >> 16 * j));
        for (unsigned i = 0; i < 2; ++i)
            for (unsigned j = 0; j < 2; ++j)
                b[2 * t + i * 8 + j][g] = half_to_float(static_cast<uint16_t>(fragment[4 + i] >> 16 * j));
    }
    for (unsigned row = 0; row < 16; ++row) {
        float *sums = warp.products[parity][row];
        std::fill_n(sums, 8, 0.0f);
        for (unsigned depth = 0; depth < 16; ++depth)
            for (unsigned column = 0; column < 8; ++column)
                sums[column] += a[row][depth] * b[depth][column];
    }
}

} // namespace

bool add_kernel(const char *name, size_t argument_bytes, Call call) {
    kernels().push_back({name, argument_bytes, call});
    return true;
}

const Kernel *find_kernel(const char *name) {
    for (const Kernel &kernel : kernels())
        if (std::strcmp(kernel.name, name) == 0)
            return &kernel;
    return nullptr;
}

void stop(const char *reason) {
    std::fprintf(stderr, "CUDA emulation: %s: %s, block (%u, %u, %u), thread %u\n",
                 block.kernel == nullptr ? "no kernel" : block.kernel->name, reason, block_index.x, block_index.y,
                 block_index.z, thread_index.x);
    std::abort();
}

void launch(const Kernel &kernel, Index grid, Index size, const void *arguments) {
    block.kernel = &kernel;
    block.arguments = arguments;
    block.threads = size.x * size.y * size.z;
    if (block.threads == 0 || block.threads % LANES != 0 || block.threads > 256)
        stop("a block must have between 32 and 256 threads, in whole warps");
    if (block.fibers.size() < block.threads)
        block.fibers.resize(block.threads);
    block.warps.resize(block.threads / LANES);
    block_size = size;
    grid_size = grid;
    for (block_index.z = 0; block_index.z < grid.z; ++block_index.z)
        for (block_index.y = 0; block_index.y < grid.y; ++block_index.y)
            for (block_index.x = 0; block_index.x < grid.x; ++block_index.x)
                run_block();
}

void wait_for_block() {
    if (block.live != block.threads)
        stop("a thread has ended before a barrier of its block");
    if (++block.arrived == block.threads) {
        block.arrived = 0;
        ++block.generation;
        return;
    }
    wait_until_changed(block.generation);
}

void wait_for_warp(const char *what) {
    Warp &warp = own_warp();
    if (arrive(warp, what))
        release(warp);
    else
        wait_until_changed(warp.generation);
}

const uint64_t *exchange(uint64_t value, const char *what) {
    Warp &warp = own_warp();
    const unsigned parity = warp.generation % 2;
    warp.values[parity][static_cast<size_t>(block.running - block.fibers.data()) % LANES] = value;
    wait_for_warp(what);
    return warp.values[parity].data();
}

const float (*multiply(const uint32_t (&a)[4], const uint32_t (&b)[2]))[8] {
    Warp &warp = own_warp();
    const unsigned parity = warp.generation % 2;
    auto &fragment = warp.fragments[parity][static_cast<size_t>(block.running - block.fibers.data()) % LANES];
    std::copy_n(a, 4, fragment.begin());
    std::copy_n(b, 2, fragment.begin() + 4);
    if (arrive(warp, "multiply")) {
        multiply_warp(warp, parity);
        release(warp);
    } else {
        wait_until_changed(warp.generation);
    }
    return warp.products[parity];
}

float half_to_float(uint16_t bits) {
    static const std::vector<float> table = [] {
        std::vector<float> values(1 << 16);
        for (size_t i = 0; i < values.size(); ++i)
            values[i] = v2e::float_from_half(static_cast<uint16_t>(i));
        return values;
    }();
    return table[bits];
}

void copy_later(void *target, const void *source) {
    if ((reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source)) % 16 != 0)
        stop("a copy of sixteen bytes is not aligned to them");
    block.running->copies.push_back({target, source});
}

void commit_copies() {
    block.running->groups.push_back(std::move(block.running->copies));
    block.running->copies.clear();
}

void wait_for_copies(size_t groups_left) {
    auto &groups = block.running->groups;
    for (; groups.size() > groups_left; groups.pop_front())
        for (const Copy &copy : groups.front())
            std::memcpy(copy.target, copy.source, 16);
}

} // namespace emulation
