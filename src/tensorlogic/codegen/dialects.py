"""The two dialects of the GPU text: all that differs between Metal and CUDA, as two preludes.

Below its prelude a kernel's text is the same in both. It uses these names:

    KERNEL(name, threads) IN OUT PARAMS   the signature; PARAM(i) is the i-th 64-bit parameter word
    GROUP THREAD SIMDGROUP LANE           ids; a simdgroup (a warp) has 32 lanes
    GROUPS                                how many groups the launch has
    EARLIER_DONE                          waits for the launches before this one; nothing reads or
                                          writes the device's memory above it. CUDA may start a
                                          launch while the one before ends
    LOCAL(T, name, count)                 an array in threadgroup memory
    PACK(T, n) AT(pack, i)                n (4, 8, 16) T that move together, and one of them
    LOCAL_SPAN(T, name, all, count)       the part of such an array that is this simdgroup's
    GROUP_BARRIER SIMD_BARRIER            with _DEVICE: also orders stores into device memory
    DEVICE THREADGROUP PRIVATE            qualifiers of pointers into those memories, a thread's own
    lane_xor(x, d)                        the value of lane LANE ^ d
    COUNT(buffer, at)                     adds one, atomically
    math_*, min_nan, max_nan              float functions that do not rely on fast math
    masked(word, mask, rest) FIELD        (word & mask) ^ rest; what such a chain begins with
    field_float(bits, scale, bias)        bits * scale + bias, where the bits of a chain are < 2**23
    rough_exp rough_div rough_div_small   with an error of a few units of the 22nd bit, for results
                                          that are stored as halfs; _small: |divisor| below 2**126
    is_nan, float_key                     tests of bits; keys are integers ordered as the floats
    index_t, uindex_t                     the type of addresses: 64 bits, or 32 where they suffice

The parameters are 64-bit words: an i64, or an i32, f32 or bool in the low half of one; after them
comes a word for each buffer, at which of its elements the kernel's data begins. Metal reads them
from a buffer (metalcompute has neither setBytes nor offsets), CUDA has them in the argument list.
"""

from __future__ import annotations

GROUP_MEMORY = 32 * 1024
"""Bytes of threadgroup memory that a kernel may use: Metal's limit, kept for CUDA too."""
MAX_BUFFERS = 31

_METAL = """\
#include <metal_stdlib>
using namespace metal;
typedef {metal_index} index_t;
typedef u{metal_index} uindex_t;
#define FUNC inline
#define DEVICE device
#define THREADGROUP threadgroup
#define PRIVATE thread
#define KERNEL(name, threads) [[max_total_threads_per_threadgroup(threads)]] kernel void name
#define IN(T, name, slot) device const T* name [[buffer(slot)]]
#define OUT(T, name, slot) device T* name [[buffer(slot)]]
#define PARAMS(slot, count) constant long* params [[buffer(slot)]], \\
    uint GROUP [[threadgroup_position_in_grid]], uint GROUPS [[threadgroups_per_grid]], \\
    uint THREAD [[thread_position_in_threadgroup]], \\
    uint LANE [[thread_index_in_simdgroup]], uint SIMDGROUP [[simdgroup_index_in_threadgroup]]
#define PARAM(i) params[i]
#define EARLIER_DONE()
#define LOCAL(T, name, count) alignas(16) threadgroup T name[count]
#define LOCAL_SPAN(T, name, all, count) threadgroup T* name = all + SIMDGROUP * count
#define GROUP_BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define GROUP_BARRIER_DEVICE() \\
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
#define SIMD_BARRIER() simdgroup_barrier(mem_flags::mem_threadgroup)
#define SIMD_BARRIER_DEVICE() \\
    simdgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {{
    vec<T, 4> part[N / 4];
}};
#define PACK(T, n) Pack<T, n>
#define AT(pack, i) (pack).part[(i) / 4][(i) % 4]
#define COUNT(buffer, at) \\
    atomic_fetch_add_explicit((device atomic_int*)(buffer) + (at), 1, memory_order_relaxed)
#define UNROLL _Pragma("clang loop unroll(full)")
#define as_int(x) as_type<int>(x)
#define as_float(x) as_type<float>(int(x))
#define math_sqrt(x) precise::sqrt(x)
#define math_exp(x) precise::exp(x)
#define math_log(x) precise::log(x)
#define math_sin(x) precise::sin(x)
#define math_cos(x) precise::cos(x)
#define math_tanh(x) precise::tanh(x)
#define math_floor(x) floor(x)
#define math_ceil(x) ceil(x)
#define math_trunc(x) trunc(x)
#define math_rint(x) rint(x)
#define math_abs(x) fabs(x)
#define math_fma(x, y, z) fma(x, y, z)
#define FIELD 0u
#define masked(word, mask, rest) ((uint(word) & uint(mask)) ^ (rest))
#define field_float(bits, scale, bias) fma(float(bits), scale, bias)
#define rough_exp(x) exp(x)
#define rough_div(x, y) ((x) / (y))
#define rough_div_small(x, y) ((x) / (y))
FUNC bool is_nan(float x) {{ return (as_int(x) & 0x7fffffff) > 0x7f800000; }}
FUNC int float_key(float x) {{ return as_int(x) ^ (as_int(x) >> 31 & 0x7fffffff); }}
FUNC float min_nan(float x, float y) {{
    return is_nan(x) ? x : is_nan(y) || float_key(y) < float_key(x) ? y : x;
}}
FUNC float max_nan(float x, float y) {{
    return is_nan(x) ? x : is_nan(y) || float_key(x) < float_key(y) ? y : x;
}}
FUNC float lane_xor(float x, uint d) {{ return simd_shuffle_xor(x, ushort(d)); }}
FUNC int lane_xor(int x, uint d) {{ return simd_shuffle_xor(x, ushort(d)); }}
FUNC bool lane_xor(bool x, uint d) {{ return simd_shuffle_xor(int(x), ushort(d)) != 0; }}
FUNC long lane_xor(long x, uint d) {{
    return as_type<long>(simd_shuffle_xor(as_type<int2>(x), ushort(d)));
}}
"""

_CUDA = """\
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef {cuda_index} index_t;
typedef unsigned {cuda_index} uindex_t;
#define FUNC static __device__ __forceinline__
#define DEVICE
#define THREADGROUP
#define PRIVATE
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
#define IN(T, name, slot) const T* name
#define OUT(T, name, slot) T* name
template <int N> struct Words {{ long long word[N]; }};
#define PARAMS(slot, count) const Words<count> params
#define PARAM(i) params.word[i]
#if __CUDA_ARCH__ >= 900
#define EARLIER_DONE() \\
    asm volatile("griddepcontrol.launch_dependents;\\n griddepcontrol.wait;" ::: "memory")
#else
#define EARLIER_DONE()
#endif
#define GROUP blockIdx.x
#define GROUPS gridDim.x
#define THREAD threadIdx.x
#define LANE (threadIdx.x & 31)
#define SIMDGROUP (threadIdx.x >> 5)
#define LOCAL(T, name, count) __shared__ __align__(16) T name[count]
#define LOCAL_SPAN(T, name, all, count) T* name = all + SIMDGROUP * count
#define GROUP_BARRIER() __syncthreads()
#define GROUP_BARRIER_DEVICE() __syncthreads()
#define SIMD_BARRIER() __syncwarp()
#define SIMD_BARRIER_DEVICE() __syncwarp()
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {{
    T element[N];
}};
#define PACK(T, n) Pack<T, n>
#define AT(pack, i) (pack).element[i]
#define COUNT(buffer, at) atomicAdd((buffer) + (at), 1)
#define UNROLL _Pragma("unroll")
#define as_int(x) __float_as_int(x)
#define as_float(x) __int_as_float(int(x))
#define math_sqrt(x) sqrtf(x)
#define math_exp(x) expf(x)
#define math_log(x) logf(x)
#define math_sin(x) sinf(x)
#define math_cos(x) cosf(x)
#define math_tanh(x) tanhf(x)
#define math_floor(x) floorf(x)
#define math_ceil(x) ceilf(x)
#define math_trunc(x) truncf(x)
#define math_rint(x) rintf(x)
#define math_abs(x) fabsf(x)
#define math_fma(x, y, z) fmaf(x, y, z)
#define FIELD 0x4b000000u
FUNC uint masked(uint word, uint mask, uint rest) {{
    uint bits;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(bits) : "r"(word), "r"(mask), "r"(rest));
    return bits;
}}
FUNC float field_float(uint bits, float scale, float bias) {{
    return fmaf(as_float(bits), scale, bias - 8388608.0f * scale);
}}
FUNC float rough_exp(float x) {{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
}}
FUNC float rough_div(float x, float y) {{
    float z;
    asm("div.full.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}}
FUNC float rough_div_small(float x, float y) {{
    float z;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(z) : "f"(y));
    return x * z;
}}
#define lane_xor(x, d) __shfl_xor_sync(0xffffffffu, x, d)
struct half {{
    ushort bits;
    half() = default;
    MEMBER explicit half(float x) {{ asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }}
    MEMBER operator float() const {{
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }}
}};
FUNC bool is_nan(float x) {{ return (as_int(x) & 0x7fffffff) > 0x7f800000; }}
FUNC int float_key(float x) {{ return as_int(x) ^ (as_int(x) >> 31 & 0x7fffffff); }}
FUNC float min_nan(float x, float y) {{
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}}
FUNC float max_nan(float x, float y) {{
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}}
// Packs of 16-bit types. Those loaded one by one take a register each: inlined, so would all packs.
template <int N, typename T>
static __device__ __attribute__((noinline)) PACK(T, N) load_each(const T* from, index_t left) {{
    PACK(T, N) pack;
    for (int u = 0; u < N; u++) AT(pack, u) = u < left ? from[u] : T(0);
    return pack;
}}
#define LOAD_PACK(T) \\
    template <int N> FUNC PACK(T, N) load_pack(const T* from, index_t left, bool fast) {{ \\
        if (fast && left >= N) return *(const PACK(T, N)*)from; \\
        return load_each<N>(from, left); \\
    }}
LOAD_PACK(half)
LOAD_PACK(ushort)
""".replace("MEMBER", "__device__ __forceinline__")

PRELUDES = {"metal": _METAL, "cuda": _CUDA}


def _pack_helpers(suffix: str, space: str) -> dict[str, str]:
    load = f"""\
template <int N, typename T>
FUNC PACK(T, N) load_pack{suffix}({space} const T* from, index_t left, bool fast) {{
    if (fast && left >= N) return *({space} const PACK(T, N)*)from;
    PACK(T, N) pack;
    UNROLL
    for (int u = 0; u < N; u++) AT(pack, u) = u < left ? from[u] : T(0);
    return pack;
}}"""
    store = f"""\
template <int N, typename T>
FUNC void store_pack{suffix}({space} T* to, PACK(T, N) pack, index_t left, bool fast) {{
    if (fast && left >= N) {{
        *({space} PACK(T, N)*)to = pack;
    }} else {{
        UNROLL
        for (int u = 0; u < N; u++) {{
            if (u < left) to[u] = AT(pack, u);
        }}
    }}
}}"""
    return {f"load_pack{suffix}": load, f"store_pack{suffix}": store}


def _words() -> dict[str, str]:
    out = {}
    for size, ctype, count in ((2, "int", 0), (4, "int", 0), (16, "int", 4)):
        name, result = f"load_word{size}", f"PACK({ctype}, {count})" if count else "int"
        if count:
            each = size // count
            slow = f"""\
    {result} words;
    UNROLL
    for (int i = 0; i < {count}; i++) {{
        AT(words, i) = {ctype}({_joined(each, f"{each} * i + ")});
    }}
    return words;"""
            wide = f"*(DEVICE const {result}*)p"
        else:
            slow = f"    return int({_joined(size, '')});"
            wide = f"int(*(DEVICE const {'ushort' if size == 2 else 'int'}*)p)"
        out[name] = f"""\
FUNC {result} {name}(DEVICE const uchar* p, bool fast) {{
    if (fast) return {wide};
{slow}
}}"""
    return out


def _joined(size: int, at: str) -> str:
    parts = [f"uint(p[{at}{k}])" + (f" << {8 * k}" if k else "") for k in range(size)]
    return " | ".join(parts)


_WORD8 = f"""\
FUNC int2 load_word8(DEVICE const uchar* p, bool fast) {{
    if (fast) return *(DEVICE const int2*)p;
    int2 words;
    words.x = int({_joined(4, "")});
    words.y = int({_joined(4, "4 + ")});
    return words;
}}"""

HELPERS = {
    **_words(),
    "load_word8": _WORD8,
    **_pack_helpers("", "DEVICE"),
    **_pack_helpers("_local", "THREADGROUP"),
    "is_infinite": """\
FUNC bool is_infinite(float x) { return (as_int(x) & 0x7fffffff) == 0x7f800000; }""",
    "int_min": "template <typename T> FUNC T int_min(T x, T y) { return x < y ? x : y; }",
    "int_max": "template <typename T> FUNC T int_max(T x, T y) { return x < y ? y : x; }",
    "int_abs": """\
template <typename T> FUNC T int_abs(T x) {
    return x < 0 ? T(uindex_t(0) - uindex_t(x)) : x;
}""",
    "int_div": """\
FUNC int int_div(int x, int y) {  // by 1 where the quotient has no value
    return y == 0 || (y == -1 && x == int(0x80000000u)) ? x : x / y;
}""",
    "int_rem": "FUNC int int_rem(int x, int y) { return y == 0 || y == -1 ? 0 : x % y; }",
    "high_product": """\
FUNC int high_product(int x, int y) {
    return int((unsigned long)(uint(x)) * uint(y) >> 32);
}""",
    "less_bits": """\
FUNC bool less_bits(float x, float y) {
    return !is_nan(x) && !is_nan(y) && float_key(x) < float_key(y);
}""",
    "from_bf16": "FUNC float from_bf16(ushort x) { return as_float(uint(x) << 16); }",
    "to_bf16": """\
FUNC ushort to_bf16(float x) {
    const uint u = uint(as_int(x));
    return ushort(is_nan(x) ? u >> 16 | 64u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}""",
    "to_i32": """\
FUNC int to_i32(float x) {
    if (is_nan(x)) return 0;
    return x >= 2147483648.0f ? 0x7fffffff : x <= -2147483648.0f ? int(0x80000000u) : int(x);
}""",
    "to_i64": """\
FUNC index_t to_i64(float x) {
    const float end = sizeof(index_t) == 8 ? 9223372036854775808.0f : 2147483648.0f;
    const uindex_t low = uindex_t(1) << (8 * sizeof(index_t) - 1);
    if (is_nan(x)) return 0;
    return x >= end ? index_t(low - 1) : x <= -end ? index_t(low) : index_t(x);
}""",
}
"""Functions written once for both dialects; a text holds those that it calls."""

BODY_MARK = "// ---- the same in Metal and CUDA from here on ----\n"


def assemble(dialect: str, body: str, index: str = "i64", more: str = "") -> str:
    """The compilable text of `body` in a dialect: its prelude (and `more` of it), the helpers that
    it calls, itself."""
    types = {
        "metal_index": "long" if index == "i64" else "int",
        "cuda_index": "long long" if index == "i64" else "int",
    }
    used = [text for name, text in HELPERS.items() if f"{name}(" in body or f"{name}<" in body]
    shared = "".join(f"{text}\n" for text in used)
    return PRELUDES[dialect].format(**types) + more + BODY_MARK + shared + body
