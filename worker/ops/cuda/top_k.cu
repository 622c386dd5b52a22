/* worker/ops/cuda/top_k.cu - the likeliest of each row of logits, and the logarithm of the sum of their exponentials.
 *
 * Order      a block takes a part of a row, whose likeliest it finds one after the other among logits that its threads hold;
 *            then a block per row takes those of its parts. Exponentials in f32 relative to the part's greatest logit, sums
 *            in f64 over a fixed tree.
 * Bytes      a logit: 2 or 4, once; bound by memory while k is small.
 */
#include "worker/ops/cuda/cuda.cuh"

enum { THREADS = 256, EACH = 8 /* logits of a thread */, PART = THREADS * EACH };

/* -- keys: a logit and its id as an integer that grows with the logit and, among equals, falls with the id; never 0 -- */

__device__ __forceinline__ uint64_t key_of(float x, int64_t id)
{
    const uint32_t bits = __float_as_uint(x == x ? x + 0.0f /* -0 is 0 */ : -INFINITY);
    const uint32_t order = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)order << 32 | (uint32_t)~id;
}
__device__ __forceinline__ float value_of(uint64_t key)
{
    const uint32_t order = (uint32_t)(key >> 32);
    return __uint_as_float(order >> 31 ? order & 0x7FFFFFFFu : ~order);
}
__device__ __forceinline__ int32_t id_of(uint64_t key)
{
    return (int32_t) ~(uint32_t)key;
}

/* Of the whole block, on every thread. */
__device__ __forceinline__ uint64_t block_max(uint64_t x)
{
    CU_SHARED(uint64_t, partial, [THREADS / 32]);
    CU_UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const uint64_t other = __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
        x = other > x ? other : x;
    }
    __syncthreads(); /* an earlier one has been read */
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = x;
    __syncthreads();
    CU_UNROLL
    for (int i = 0; i < THREADS / 32; i++)
        x = partial[i] > x ? partial[i] : x;
    return x;
}

/* What exponentials of logits up to `most` are relative to. */
__device__ __forceinline__ float reference_of(float most)
{
    return most == -INFINITY ? 0 : most;
}

/* -- a part -- */

/* keys (R, parts, k), 0 behind the last; sums (R, parts, 2): of e^(x - most), and most. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    top_k_part_kernel(uint64_t *keys, double *sums, const T *x, int64_t V, int64_t k)
{
    const int64_t part = blockIdx.y * (int64_t)gridDim.x + blockIdx.x;
    float value[EACH];
    uint64_t key[EACH];
    CU_UNROLL
    for (int p = 0; p < EACH; p += N) {
        const int64_t i = (int64_t)blockIdx.x * PART + (p * THREADS + (int)threadIdx.x * N);
        float some[N];
        CU_UNROLL
        for (int j = 0; j < N; j++)
            some[j] = -INFINITY;
        if (i < V)
            load<N>(some, x + blockIdx.y * V + i);
        CU_UNROLL
        for (int j = 0; j < N; j++) {
            value[p + j] = some[j];
            key[p + j] = i < V ? key_of(some[j], i + j) : 0;
        }
    }
    float most = 0;
    uint64_t last = UINT64_MAX;
    for (int64_t n = 0; n < k; n++) {
        uint64_t best = 0;
        CU_UNROLL
        for (int i = 0; i < EACH; i++)
            best = key[i] < last && key[i] > best ? key[i] : best;
        last = block_max(best);
        most = n == 0 ? reference_of(value_of(last)) : most;
        if (threadIdx.x == 0)
            keys[part * k + n] = last;
    }
    double sum = 0;
    CU_UNROLL
    for (int i = 0; i < EACH; i++)
        sum += (double)expf(value[i] - most);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) {
        sums[2 * part] = sum;
        sums[2 * part + 1] = most;
    }
}

/* -- a row -- */

__global__ void __launch_bounds__(THREADS)
    top_k_row_kernel(double *log_sum, float *values, int32_t *ids, const uint64_t *keys,
                     const double *sums, int64_t parts, int64_t k)
{
    const int64_t r = blockIdx.x;
    double most = 0, sum = 0;
    uint64_t last = UINT64_MAX;
    for (int64_t n = 0; n < k; n++) {
        uint64_t best = 0;
        for (int64_t i = threadIdx.x; i < parts * k; i += THREADS) {
            const uint64_t key = keys[r * parts * k + i];
            best = key < last && key > best ? key : best;
        }
        last = block_max(best);
        most = n == 0 ? (double)reference_of(value_of(last)) : most;
        if (threadIdx.x == 0) {
            values[r * k + n] = value_of(last);
            ids[r * k + n] = id_of(last);
        }
    }
    for (int64_t p = threadIdx.x; p < parts; p += THREADS) {
        const double *part = sums + 2 * (r * parts + p);
        if (part[0] != 0) /* beside a greater logit e^(most - most) may overflow */
            sum += part[0] * exp(part[1] - most);
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0)
        log_sum[r] = most + log(sum);
}

size_t cuda_top_k_scratch(int64_t R, int64_t V, int64_t k)
{
    return (size_t)(R * cu_ceil_div(V, PART) + 1) * (size_t)(k + 2) * sizeof(uint64_t);
}

cudaError_t cuda_top_k(struct cuda_launch launch, double *log_sum, float *values, int32_t *ids,
                       const act *x, int64_t R, int64_t V, int64_t k, void *scratch)
{
    if (R == 0)
        return cudaSuccess;
    const int64_t parts = cu_ceil_div(V, PART);
    double *sums = (double *)scratch;
    uint64_t *keys = (uint64_t *)(sums + 2 * R * parts);
    const bool vectors = aligned(x) && V % 8 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int N = decltype(n)::value;
        CU_LAUNCH((top_k_part_kernel<T, N>), dim3((unsigned)parts, (unsigned)R), THREADS, 0,
                  launch.stream, keys, sums, (const T *)x, V, k);
    });
    CU_LAUNCH(top_k_row_kernel, (unsigned)R, THREADS, 0, launch.stream, log_sum, values, ids, keys,
              sums, parts, k);
    return cudaGetLastError();
}
