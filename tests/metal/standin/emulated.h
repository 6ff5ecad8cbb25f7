// What runtime.c does for a kernel that runs on the CPU; enough to check a text, too.
#pragma once
#ifdef METAL_DOUBLE_MATH
#include "double_math.h"
#else
#define PRIM_1(name) float prim_##name(float); float prim_fast_##name(float);
#define PRIM_2(name) float prim_##name(float, float); float prim_fast_##name(float, float);
extern "C" {
PRIM_1(exp) PRIM_1(exp2) PRIM_1(exp10) PRIM_1(log) PRIM_1(log2) PRIM_1(log10) PRIM_1(sin)
PRIM_1(cos) PRIM_1(tan) PRIM_1(sinh) PRIM_1(cosh) PRIM_1(tanh) PRIM_2(pow) PRIM_2(fmod)
}
#undef PRIM_1
#undef PRIM_2
#endif
extern "C" {
void prim_threadgroup_barrier(int flags);
void prim_simdgroup_barrier(int flags);
uint prim_lane(void);
ulong prim_exchange(ulong value, uint bytes, uint operation);  // where 32 slots of 16 bytes are
ulong prim_multiply(ulong elements);  // two of A, two of B: where the 64 sums of A @ B are
uint prim_atomic(ulong address, uint operation, uint operand);
void prim_touch_matrix(ulong address, uint bytes, int write);
}

namespace metal {

// The values that the lanes of a simdgroup bring to one operation, where they meet.
template <typename T> struct __lanes {
    ulong slots;
    __lanes(T mine, uint operation) {
        static_assert(sizeof(T) <= 16, "a value that crosses lanes has at most 16 bytes");
        slots = prim_exchange((ulong)&mine, sizeof(T), operation);
    }
    T operator[](uint lane) const { return *(const __global T*)(slots + 16 * lane); }
};

template <typename A, typename B>
inline vec<float, 2> __matrix_product(vec<A, 2> a, vec<B, 2> b) {
    vec<float, 4> elements;
    for (int i = 0; i < 2; i++) {
        elements[i] = (float)a[i];
        elements[2 + i] = (float)b[i];
    }
    const ulong sums = prim_multiply((ulong)&elements);
    const uint lane = prim_lane(), row = ((lane / 4) & 4) + lane / 2 % 4;
    const uint column = ((lane / 4) & 2) * 2 + lane % 2 * 2;
    const __global float* at = (const __global float*)sums + row * 8 + column;
    vec<float, 2> result;
    for (int i = 0; i < 2; i++) result[i] = at[i];
    return result;
}

// A matrix is loaded and stored by a simdgroup as a whole: tracing must not see single lanes.
#ifdef METAL_TRACED
#define MATRIX_ACCESS __attribute__((noinline, no_sanitize("coverage")))
#define prim_matrix_touch prim_touch_matrix
#else
#define MATRIX_ACCESS inline
#define prim_matrix_touch(address, bytes, write)
#endif

#define ATOMICS(SPACE, T, is_signed) \
    inline T prim_atomic_load(const volatile SPACE T* p) { return prim_atomic((ulong)p, 0, 0); } \
    inline T prim_atomic_exchange(volatile SPACE T* p, T x) { \
        return prim_atomic((ulong)p, 1, x); \
    } \
    inline T prim_atomic_fetch_add(volatile SPACE T* p, T x) { \
        return prim_atomic((ulong)p, 2, x); \
    } \
    inline T prim_atomic_fetch_or(volatile SPACE T* p, T x) { \
        return prim_atomic((ulong)p, 3, x); \
    } \
    inline T prim_atomic_fetch_max(volatile SPACE T* p, T x) { \
        return prim_atomic((ulong)p, 4 + is_signed, x); \
    } \
    inline T prim_atomic_fetch_min(volatile SPACE T* p, T x) { \
        return prim_atomic((ulong)p, 6 + is_signed, x); \
    }
ATOMICS(__global, int, 1) ATOMICS(__global, uint, 0) ATOMICS(__local, int, 1)
ATOMICS(__local, uint, 0)
#undef ATOMICS

}  // namespace metal
