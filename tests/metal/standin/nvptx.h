// What an NVIDIA GPU does for a kernel of Metal text, for clang's NVPTX target: a simdgroup is a
// warp.
#pragma once
#undef constant
#define constant const __global  // NVPTX's own constant memory is not where arguments point
#define MATRIX_ACCESS inline
#define prim_matrix_touch(address, bytes, write)
#include "double_math.h"

namespace metal {

// ---- threads ----
inline uint prim_lane() { return __nvvm_read_ptx_sreg_tid_x() & 31; }
inline void prim_threadgroup_barrier(int) {
    __nvvm_membar_cta();
    __nvvm_bar_sync(0);
}
inline void prim_simdgroup_barrier(int) {
    __nvvm_membar_cta();
    __nvvm_bar_warp_sync(~0u);
}

template <typename T> struct __lanes {
    T mine;
    __lanes(T value, uint) : mine(value) {}
    T operator[](uint lane) const {
        if constexpr (sizeof(T) == 2) {
            const int bits = __builtin_bit_cast(ushort, mine);
            return __builtin_bit_cast(T, (ushort)__nvvm_shfl_sync_idx_i32(~0u, bits, lane, 31));
        } else {
            struct Words { int word[sizeof(T) / 4]; };
            Words words = __builtin_bit_cast(Words, mine);
            for (uint i = 0; i < sizeof(T) / 4; i++)
                words.word[i] = __nvvm_shfl_sync_idx_i32(~0u, words.word[i], lane, 31);
            return __builtin_bit_cast(T, words);
        }
    }
};

inline uint prim_owner(uint row, uint column) {  // the lane that holds an element of a matrix
    return (row & 4) << 2 | (column & 4) << 1 | (row & 3) << 1 | (column >> 1 & 1);
}
template <typename A, typename B>
inline vec<float, 2> __matrix_product(vec<A, 2> a, vec<B, 2> b) {
    const uint lane = prim_lane(), row = ((lane / 4) & 4) + lane / 2 % 4;
    const uint column = ((lane / 4) & 2) * 2 + lane % 2 * 2;
    const __lanes<vec<A, 2>> all_a(a, 0);
    const __lanes<vec<B, 2>> all_b(b, 0);
    vec<float, 2> sums = 0.0f;
    for (uint k = 0; k < 8; k++) {
        const vec<A, 2> x = all_a[prim_owner(row, k)];
        const vec<B, 2> y = all_b[prim_owner(k, column)];
        const float factor = (float)x[k & 1];
        for (int i = 0; i < 2; i++) sums[i] = __builtin_fmaf(factor, (float)y[i], sums[i]);
    }
    return sums;
}

#define ATOMICS(SPACE, T, maximum, minimum) \
    inline T prim_atomic_load(const volatile SPACE T* p) { return *p; } \
    inline T prim_atomic_exchange(volatile SPACE T* p, T x) { return __sync_swap(p, x); } \
    inline T prim_atomic_fetch_add(volatile SPACE T* p, T x) { return __sync_fetch_and_add(p, x); } \
    inline T prim_atomic_fetch_or(volatile SPACE T* p, T x) { return __sync_fetch_and_or(p, x); } \
    inline T prim_atomic_fetch_max(volatile SPACE T* p, T x) { return maximum(p, x); } \
    inline T prim_atomic_fetch_min(volatile SPACE T* p, T x) { return minimum(p, x); }
ATOMICS(__global, int, __sync_fetch_and_max, __sync_fetch_and_min)
ATOMICS(__global, uint, __sync_fetch_and_umax, __sync_fetch_and_umin)
ATOMICS(__local, int, __sync_fetch_and_max, __sync_fetch_and_min)
ATOMICS(__local, uint, __sync_fetch_and_umax, __sync_fetch_and_umin)
#undef ATOMICS

}  // namespace metal
