/* worker/ops/cuda/rmsnorm.cu - y = x rstd w,  rstd = (mean x^2 + eps)^-1/2,  over the last axis (R,D).
 *
 * Backward   with g = d_y w:  d_x = rstd (g - x rstd^2 mean(g x)).  The weight is frozen.
 * Order      a warp per row: each lane sums every 32nd vector, then a butterfly.
 * Bytes      a row of elements of size s: forward 2 s D, backward 3 s D (4 s D with accumulate); the
 *            second reading comes from the L1 cache.
 * FLOP       forward 4 D, backward 8 D: bound by memory.
 */
#include "worker/ops/cuda/cuda.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_forward_kernel(T *y, float *saved, const T *x, const float *weight, int64_t R,
                           int64_t D, float eps)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = (int64_t)(threadIdx.x % 32) * V;
    if (r >= R)
        return;
    float squares = 0, value[V], w[V];
    CU_UNROLL_BY(4)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, x + r * D + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            squares += value[j] * value[j];
    }
    const float rstd = 1 / sqrtf(warp_sum(squares) / (float)D + eps);
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, x + r * D + i);
        load_f32<V>(w, weight + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[j] *= rstd * w[j];
        store<V>(y + r * D + i, value);
    }
    if (saved && lane == 0)
        saved[r] = rstd;
}

cudaError_t cuda_rmsnorm_forward(struct cuda_launch launch, act *y, float *saved, const act *x,
                                 const float *weight, int64_t R, int64_t D, float eps)
{
    if (R == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x, weight) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((rmsnorm_forward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)y, saved, (const T *)x, weight, R, D, eps);
    });
    return cudaGetLastError();
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    rmsnorm_backward_kernel(T *d_x, const T *d_y, const T *x, const float *saved,
                            const float *weight, int64_t R, int64_t D, bool accumulate)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = (int64_t)(threadIdx.x % 32) * V;
    if (r >= R)
        return;
    float sum = 0, d[V], value[V], w[V];
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(d, d_y + r * D + i);
        load<V>(value, x + r * D + i);
        load_f32<V>(w, weight + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            sum += d[j] * w[j] * value[j];
    }
    const float rstd = saved[r], along_x = rstd * rstd * warp_sum(sum) / (float)D;
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(d, d_y + r * D + i);
        load<V>(value, x + r * D + i);
        load_f32<V>(w, weight + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[j] = rstd * (d[j] * w[j] - value[j] * along_x);
        if (accumulate) {
            load<V>(d, d_x + r * D + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] += d[j];
        }
        store<V>(d_x + r * D + i, value);
    }
}

cudaError_t cuda_rmsnorm_backward(struct cuda_launch launch, act *d_x, const act *d_y, const act *x,
                                  const float *saved, const float *weight, int64_t R, int64_t D,
                                  bool accumulate)
{
    if (R == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_x, d_y, x, weight) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((rmsnorm_backward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)d_x, (const T *)d_y, (const T *)x, saved, weight, R, D,
                  accumulate);
    });
    return cudaGetLastError();
}
