// What our CUDA text uses of the language and its library, for clang's own CUDA mode without a CUDA
// toolkit. Functions are declared, not defined: texts are checked, not linked.
#pragma once
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))

struct __attribute__((aligned(16))) uint4 { unsigned int x, y, z, w; };
struct __attribute__((aligned(8))) int2 { int x, y; };
struct __attribute__((aligned(8))) uint2 { unsigned int x, y; };
typedef decltype(sizeof(0)) size_t;
struct uint3 { unsigned int x, y, z; };
extern const __device__ uint3 threadIdx, blockIdx, gridDim;

__device__ void __syncthreads();
__device__ void __syncwarp(unsigned int mask = 0xffffffffu);
__device__ int __float_as_int(float);
__device__ float __int_as_float(int);
__device__ int __any_sync(unsigned int mask, int value);
__device__ size_t __cvta_generic_to_shared(const void*);
__device__ size_t __cvta_generic_to_global(const void*);
__device__ int atomicAdd(int*, int);
#define SHUFFLE(T) __device__ T __shfl_xor_sync(unsigned int mask, T value, int lanes);
SHUFFLE(int) SHUFFLE(unsigned int) SHUFFLE(long) SHUFFLE(unsigned long) SHUFFLE(long long)
SHUFFLE(unsigned long long) SHUFFLE(float) SHUFFLE(double)
#undef SHUFFLE
#define FUNCTION(name) extern "C" __device__ float name(float);
FUNCTION(sqrtf) FUNCTION(expf) FUNCTION(logf) FUNCTION(sinf) FUNCTION(cosf) FUNCTION(tanhf)
FUNCTION(floorf) FUNCTION(ceilf) FUNCTION(truncf) FUNCTION(rintf) FUNCTION(fabsf)
#undef FUNCTION
extern "C" __device__ float fmaf(float, float, float);
