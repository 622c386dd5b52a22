/* worker/ops/cuda/cuda.cuh - what the kernel files share: launching, elements, vectors, sums.
 *
 * Host       the same files compile as plain C++ against tests/cudasim, where the unit tests run them.
 *            So: launches by CU_LAUNCH, shared memory by CU_SHARED, no instruction that has no host
 *            twin, no reliance on lanes running in step without __syncwarp.
 * Elements   kernels are templates over T, float or bf16; arithmetic is in f32.
 * Vectors    V elements of 16 bytes where pointers and widths allow, else V = 1: also a template
 *            parameter.
 */
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#define CU_LAUNCH(kernel, grid, block, shared, stream, ...)                                        \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define CU_SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define CU_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]
/* Lets a kernel have more than 48 KB of dynamic shared memory. */
#define CU_DYNAMIC_MAX(kernel, bytes)                                                              \
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
#define CU_UNROLL _Pragma("unroll")
#define CU_PRAGMA(text) _Pragma(#text)
#define CU_UNROLL_BY(count) CU_PRAGMA(unroll count)
#else
#include <cudasim.h>
#define CU_LAUNCH(kernel, grid, block, shared, stream, ...)                                        \
    cudasim_launch(grid, block, shared, stream, kernel, ##__VA_ARGS__)
#define CU_SHARED(type, name, dims)                                                                \
    static const char name##_key = 0;                                                              \
    auto &name = *static_cast<type(*) dims>(cudasim_shared(&name##_key, sizeof(type dims)))
#define CU_DYNAMIC(name) unsigned char *name = static_cast<unsigned char *>(cudasim_dynamic())
#define CU_DYNAMIC_MAX(kernel, bytes) cudaSuccess
#define CU_UNROLL
#define CU_UNROLL_BY(count)
#endif

#include "worker/ops/cuda/kernels.h"

/* -- elements -- */

struct bf16 {
    uint16_t bits;
};
struct f16 { /* frozen weights of a file: read only */
    uint16_t bits;
};

__device__ __forceinline__ float to_f32(float x)
{
    return x;
}
__device__ __forceinline__ float to_f32(bf16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

__device__ __forceinline__ float to_f32(f16 x)
{
    const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7FFF;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    normal += magnitude >= 0x7C00 ? 112u << 23 : 0; /* infinity and NaN: the largest exponent */
    const uint32_t subnormal = __float_as_uint((float)magnitude * 0x1p-24f);
    return __uint_as_float(sign | (magnitude < 0x400 ? subnormal : normal));
}

template <typename T> __device__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x)
{
    return x;
}
/* To nearest, ties to even; NaN stays NaN. */
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x)
{
#ifdef __CUDACC__
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
    uint32_t bits = __float_as_uint(x), rounded = bits + 0x7FFF + (bits >> 16 & 1);
    return bf16{(uint16_t)((x != x ? bits | 0x400000 : rounded) >> 16)};
#endif
}

/* -- vectors -- */

template <typename T, int V> struct alignas(sizeof(T) * V) vector {
    T v[V];
};
template <typename T> constexpr int VECTOR = 16 / (int)sizeof(T);

template <int V, typename T> __device__ __forceinline__ void load(float (&y)[V], const T *x)
{
    const vector<T, V> packed = *reinterpret_cast<const vector<T, V> *>(x);
    CU_UNROLL
    for (int i = 0; i < V; i++)
        y[i] = to_f32(packed.v[i]);
}
template <int V, typename T> __device__ __forceinline__ void store(T *y, const float (&x)[V])
{
    vector<T, V> packed;
    CU_UNROLL
    for (int i = 0; i < V; i++)
        packed.v[i] = from_f32<T>(x[i]);
    *reinterpret_cast<vector<T, V> *>(y) = packed;
}
/* f32 beside bf16 vectors: parameters, in 16-byte pieces. */
template <int V> __device__ __forceinline__ void load_f32(float (&y)[V], const float *x)
{
    constexpr int PIECE = V % 4 == 0 ? 4 : V;
    CU_UNROLL
    for (int i = 0; i < V; i += PIECE) {
        const vector<float, PIECE> packed = *reinterpret_cast<const vector<float, PIECE> *>(x + i);
        CU_UNROLL
        for (int j = 0; j < PIECE; j++)
            y[i + j] = packed.v[j];
    }
}
template <int V> __device__ __forceinline__ void store_f32(float *y, const float (&x)[V])
{
    constexpr int PIECE = V % 4 == 0 ? 4 : V;
    CU_UNROLL
    for (int i = 0; i < V; i += PIECE) {
        vector<float, PIECE> packed;
        CU_UNROLL
        for (int j = 0; j < PIECE; j++)
            packed.v[j] = x[i + j];
        *reinterpret_cast<vector<float, PIECE> *>(y + i) = packed;
    }
}

/* Do all of these addresses suit 16-byte vectors? NULL does. */
template <typename... P> static inline bool aligned(P... pointers)
{
    return (((uintptr_t)pointers % 16 == 0) && ...);
}

/* f(T{}, V) with the vector length as a type. */
template <int V> struct length {
    static constexpr int value = V;
};
template <typename F> static inline void by_act(enum cuda_act act, bool vectors, F f)
{
    if (act == CUDA_ACT_BF16)
        vectors ? f(bf16{}, length<VECTOR<bf16>>{}) : f(bf16{}, length<1>{});
    else
        vectors ? f(float{}, length<VECTOR<float>>{}) : f(float{}, length<1>{});
}

/* -- sums over a fixed butterfly: the same on every lane -- */

__device__ __forceinline__ float warp_sum(float x)
{
    CU_UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x)
{
    CU_UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, lanes));
    return x;
}

/* Of THREADS threads (a power of two, 32 or more), on every one; called by all of the block. */
template <int THREADS, typename N> __device__ __forceinline__ N block_sum(N x)
{
    constexpr int WARPS = THREADS / 32;
    CU_SHARED(N, partial, [WARPS]);
    CU_UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
    __syncthreads(); /* an earlier sum has been read */
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = x;
    __syncthreads();
    N sum = 0;
    CU_UNROLL
    for (int i = 0; i < WARPS; i++)
        sum += partial[i];
    return sum;
}

/* -- sizes -- */

static inline int64_t cu_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
/* Blocks for `count` pieces of work, where the kernel strides over what is beyond: enough to fill
 * any GPU several times. */
static inline unsigned cu_blocks(int64_t count, int64_t per_block)
{
    const int64_t blocks = cu_ceil_div(count, per_block), most = 1 << 16;
    return (unsigned)(blocks < most ? blocks : most);
}
