/* worker/ops/cuda/affine.cu - y = w (x + s[r] c) + s[r] b,  rows of (R,D), one b and one c for each group of
 * rows (ops.h).
 *
 * Backward   d_x = w d_y,  d_s[r] = <d_y, w c + b>,  d_w = sum_r (x + s[r] c) d_y,
 *            d_b = sum over b's rows of s[r] d_y.
 * Order      a warp per row: each lane takes every 32nd vector, sums end in a butterfly. Parameter
 *            gradients by columns.cuh, those of b for each group by itself.
 * Bytes      an element of size s: forward 2 s, backward 2 s, and 2 s for parameter gradients.
 * FLOP       5 an element: bound by memory.
 */
#include "worker/ops/cuda/columns.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

static __device__ __forceinline__ const float *bias_of(const struct ops_affine &a, int64_t r,
                                                       int64_t D)
{
    return a.bias + r / a.period % a.G * D;
}

/* NULL: there is none. */
static __device__ __forceinline__ const float *center_of(const struct ops_affine &a, int64_t r,
                                                         int64_t D)
{
    return a.center ? a.center + r / a.center_rows * D : nullptr;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    affine_forward_kernel(T *y, const T *x, const struct ops_affine a, int64_t R, int64_t D)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= R)
        return;
    const float shift = a.bias ? a.shift[r] : 0;
    const float *bias = a.bias ? bias_of(a, r, D) : nullptr, *center = center_of(a, r, D);
    float value[V], other[V];
    CU_UNROLL_BY(2)
    for (int64_t i = (int64_t)(threadIdx.x % 32) * V; i < D; i += 32 * V) {
        load<V>(value, x + r * D + i);
        if (center) {
            load_f32<V>(other, center + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] += shift * other[j];
        }
        if (a.weight) {
            load_f32<V>(other, a.weight + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] *= other[j];
        }
        if (bias) {
            load_f32<V>(other, bias + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] += shift * other[j];
        }
        store<V>(y + r * D + i, value);
    }
}

cudaError_t cuda_affine_forward(struct cuda_launch launch, act *y, const act *x,
                                const struct ops_affine *a, int64_t R, int64_t D)
{
    if (R == 0)
        return cudaSuccess;
    const bool vectors = aligned(y, x, a->weight, a->bias, a->center) && D % 8 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((affine_forward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)y, (const T *)x, *a, R, D);
    });
    return cudaGetLastError();
}

/* d_shift NULL: not wanted; d_x likewise. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    affine_backward_kernel(T *d_x, float *d_shift, const T *d_y, const struct ops_affine a,
                           int64_t R, int64_t D, bool accumulate_shift)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = (int64_t)(threadIdx.x % 32) * V;
    if (r >= R)
        return;
    const float *bias = d_shift ? bias_of(a, r, D) : nullptr, *center = center_of(a, r, D);
    float dot = 0, value[V], other[V], weight[V];
    CU_UNROLL_BY(2)
    for (int64_t i = lane; i < D; i += 32 * V) {
        load<V>(value, d_y + r * D + i);
        if (d_x || center)
            load_f32<V>(weight, a.weight + i);
        if (d_shift) {
            load_f32<V>(other, bias + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                dot += value[j] * other[j];
        }
        if (d_shift && center) {
            load_f32<V>(other, center + i);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                dot += value[j] * weight[j] * other[j];
        }
        if (d_x) {
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[j] *= weight[j];
            store<V>(d_x + r * D + i, value);
        }
    }
    dot = warp_sum(dot);
    if (d_shift && lane == 0)
        d_shift[r] = accumulate_shift ? d_shift[r] + dot : dot;
}

namespace
{
/* What d_weight sums. */
template <typename T, int V> struct weight_source {
    const T *d_y, *x;
    struct ops_affine a;
    int64_t D;
    __device__ void operator()(float (&value)[1][V], int64_t row, int64_t column) const
    {
        float d[V];
        load<V>(value[0], x + row * D + column);
        if (a.center) {
            load_f32<V>(d, center_of(a, row, D) + column);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                value[0][j] += a.shift[row] * d[j];
        }
        load<V>(d, d_y + row * D + column);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[0][j] *= d[j];
    }
};
/* What d_bias sums: the i-th row of a group. */
template <typename T, int V> struct bias_source {
    const T *d_y;
    const float *shift;
    int64_t D, period, G, group;
    __device__ void operator()(float (&value)[1][V], int64_t i, int64_t column) const
    {
        const int64_t row = (i / period * G + group) * period + i % period;
        load<V>(value[0], d_y + row * D + column);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[0][j] *= shift[row];
    }
};
} // namespace

size_t cuda_affine_backward_scratch(int64_t R, int64_t D)
{
    return column_scratch(R, D, 1);
}

cudaError_t cuda_affine_backward(struct cuda_launch launch, act *d_x, float *d_shift,
                                 float *d_weight, float *d_bias, const act *d_y, const act *x,
                                 const struct ops_affine *a, int64_t R, int64_t D,
                                 bool accumulate_shift, void *scratch)
{
    if (R == 0)
        return cudaSuccess;
    const bool vectors = aligned(d_x, d_y, x, a->weight, a->bias, a->center) && D % 8 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        if (d_weight) {
            const weight_source<T, V> source = {(const T *)d_y, (const T *)x, *a, D};
            column_sums<V, 1>(launch.stream, d_weight, nullptr, source, R, D, scratch);
        }
        for (int64_t g = 0; d_bias && g < a->G; g++) {
            const bias_source<T, V> source = {(const T *)d_y, a->shift, D, a->period, a->G, g};
            column_sums<V, 1>(launch.stream, d_bias + g * D, nullptr, source, R / a->G, D, scratch);
        }
        if (d_x || d_shift)
            CU_LAUNCH((affine_backward_kernel<T, V>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                      launch.stream, (T *)d_x, d_shift, (const T *)d_y, *a, R, D, accumulate_shift);
    });
    return cudaGetLastError();
}
