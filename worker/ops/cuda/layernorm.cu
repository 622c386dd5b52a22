/* worker/ops/cuda/layernorm.cu - y = xh w + b,  xh = (x - mean) rstd,  over the last axis (R,D).
 *
 * Backward   with g = d_y w:  d_x = rstd (g - mean(g) - xh mean(g xh)),  d_w = sum_r d_y xh,
 *            d_b = sum_r d_y.
 * Order      a warp per row: each lane sums every 32nd vector, then a butterfly. Parameter gradients
 *            by columns.cuh, which reads d_y and x again.
 * Bytes      a row of elements of size s: forward 2 s D (the row is read three times, twice from the
 *            L1 cache), backward 3 s D (4 s D with accumulate), and 2 s D for parameter gradients.
 * FLOP       forward 8 D, backward 13 D: bound by memory.
 */
#include "worker/ops/cuda/columns.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

/* weight NULL: ones */
template <int V>
static __device__ __forceinline__ void load_weight(float (&w)[V], const float *weight, int64_t i)
{
    CU_UNROLL
    for (int j = 0; j < V; j++)
        w[j] = 1;
    if (weight)
        load_f32<V>(w, weight + i);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    layernorm_forward_kernel(T *y, float *saved, const T *x, const float *weight, const float *bias,
                             int64_t R, int64_t D, float eps)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = (int64_t)(threadIdx.x % 32) * V;
    if (r >= R)
        return;
    const T *x_r = x + r * D;
    float sum = 0, squares = 0, value[V], w[V], b[V];
    CU_UNROLL_BY(4)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, x_r + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            sum += value[j];
    }
    const float mean = warp_sum(sum) / (float)D;
    CU_UNROLL_BY(4)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, x_r + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            squares += (value[j] - mean) * (value[j] - mean);
    }
    const float rstd = 1 / sqrtf(warp_sum(squares) / (float)D + eps);
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, x_r + i);
        load_weight<V>(w, weight, i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            b[j] = 0;
        if (bias)
            load_f32<V>(b, bias + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[j] = (value[j] - mean) * rstd * w[j] + b[j];
        store<V>(y + r * D + i, value);
    }
    if (saved && lane == 0) {
        saved[2 * r] = mean;
        saved[2 * r + 1] = rstd;
    }
}

cudaError_t cuda_layernorm_forward(struct cuda_launch launch, act *y, float *saved, const act *x,
                                   const float *weight, const float *bias, int64_t R, int64_t D,
                                   float eps)
{
    if (R == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x, weight, bias) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((layernorm_forward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)y, saved, (const T *)x, weight, bias, R, D, eps);
    });
    return cudaGetLastError();
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    layernorm_backward_kernel(T *d_x, const T *d_y, const T *x, const float *saved,
                              const float *weight, int64_t R, int64_t D, bool accumulate)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = (int64_t)(threadIdx.x % 32) * V;
    if (r >= R)
        return;
    const float mean = saved[2 * r], rstd = saved[2 * r + 1];
    float sum_g = 0, sum_gx = 0, d[V], value[V], w[V];
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(d, d_y + r * D + i);
        load<V>(value, x + r * D + i);
        load_weight<V>(w, weight, i);
        CU_UNROLL
        for (int j = 0; j < V; j++) {
            sum_g += d[j] * w[j];
            sum_gx += d[j] * w[j] * (value[j] - mean);
        }
    }
    const float mean_g = warp_sum(sum_g) / (float)D;
    const float mean_gx = warp_sum(sum_gx) * rstd / (float)D;
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(d, d_y + r * D + i);
        load<V>(value, x + r * D + i);
        load_weight<V>(w, weight, i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[j] = rstd * (d[j] * w[j] - mean_g - (value[j] - mean) * rstd * mean_gx);
        if (accumulate) {
            load<V>(d, d_x + r * D + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] += d[j];
        }
        store<V>(d_x + r * D + i, value);
    }
}

namespace
{
/* What d_weight and d_bias sum. */
template <typename T, int V> struct layernorm_source {
    const T *d_y, *x;
    const float *saved;
    int64_t D;
    __device__ void operator()(float (&value)[2][V], int64_t row, int64_t column) const
    {
        const float mean = saved[2 * row], rstd = saved[2 * row + 1];
        load<V>(value[1], d_y + row * D + column);
        load<V>(value[0], x + row * D + column);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[0][j] = value[1][j] * ((value[0][j] - mean) * rstd);
    }
};
} // namespace

size_t cuda_layernorm_backward_scratch(int64_t R, int64_t D)
{
    return column_scratch(R, D, 2);
}

cudaError_t cuda_layernorm_backward(struct cuda_launch launch, act *d_x, float *d_weight,
                                    float *d_bias, const act *d_y, const act *x, const float *saved,
                                    const float *weight, int64_t R, int64_t D, bool accumulate,
                                    void *scratch)
{
    if (R == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_x, d_y, x, weight) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        if (d_weight) {
            const layernorm_source<T, V> source = {(const T *)d_y, (const T *)x, saved, D};
            column_sums<V, 2>(launch.stream, d_weight, d_bias, source, R, D, scratch);
        }
        CU_LAUNCH((layernorm_backward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)d_x, (const T *)d_y, (const T *)x, saved, weight, R, D,
                  accumulate);
    });
    return cudaGetLastError();
}
