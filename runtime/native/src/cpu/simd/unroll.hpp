// Loops over registers: unless they are unrolled at once, compilers keep their arrays in memory.
#pragma once

#if defined(__clang__)
#define V2E_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define V2E_UNROLL _Pragma("GCC unroll 16")
#else
#define V2E_UNROLL
#endif

// Keeps a function out of its callers: its loops need all registers, and their values would take some.
#if defined(_MSC_VER)
#define V2E_NOINLINE __declspec(noinline)
#else
#define V2E_NOINLINE __attribute__((noinline))
#endif

// Keeps the compiler from carrying what lies in memory over to the next round of a loop in registers that it lacks.
#if defined(__GNUC__)
#define V2E_FORGET_MEMORY __asm__ volatile("" ::: "memory")
#else
#define V2E_FORGET_MEMORY
#endif
