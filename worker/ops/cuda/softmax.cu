/* worker/ops/cuda/softmax.cu - p = softmax(scale x), dropped = m p, sums = sum_j dropped, over rows of N
 * elements, ld apart; m the dropout factors.
 *
 * Backward   g = m (d_dropped + d_sums),  d_x = scale p (g - sum_j p g).
 * Order      a warp per row: strided sums per lane, then a butterfly. Lanes write four elements at a
 *            time, one Philox block.
 * Bytes      an element of size s: forward 3 s (two more reads come from the L1 cache), backward 3 s;
 *            exponentials and Philox are worth about 60 operations an element.
 */
#include "worker/ops/cuda/dropout.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

namespace
{
/* The row of scores that a warp works on, and its dropout. */
struct row_dropout {
    struct dropout_site site;
    bool drops;
    int64_t rows, N;
    __device__ void factors(float (&factor)[4], int64_t r, int64_t i) const
    {
        if (drops) {
            const uint64_t first = (uint64_t)(r % rows) * (uint64_t)N + (uint64_t)i;
            dropout_four(factor, site, (uint32_t)site.positions[r / rows], first);
        } else {
            CU_UNROLL
            for (int j = 0; j < 4; j++)
                factor[j] = 1;
        }
    }
};
} // namespace

static struct row_dropout row_dropout_of(const struct ops_dropout *dropout, int64_t rows, int64_t N)
{
    return {dropout_site(dropout), !dropout_is_off(dropout), rows, N};
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    softmax_forward_kernel(T *p, T *dropped, float *sums, const T *x, float scale,
                           const struct row_dropout drop, int64_t R, int64_t N, int64_t ld)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = threadIdx.x % 32;
    if (r >= R)
        return;
    const T *x_r = x + r * ld;
    float most = -INFINITY, sum = 0, kept = 0;
    CU_UNROLL_BY(4)
    for (int64_t i = lane; i < N; i += 32)
        most = fmaxf(most, to_f32(x_r[i]));
    most = warp_max(most);
    CU_UNROLL_BY(4)
    for (int64_t i = lane; i < N; i += 32)
        sum += expf(scale * (to_f32(x_r[i]) - most));
    const float inverse = 1 / warp_sum(sum); /* every lane has read the row: p may be x */
    for (int64_t i = 4 * lane; i < ld; i += 128) {
        float factor[4];
        drop.factors(factor, r, i);
        CU_UNROLL
        for (int j = 0; j < 4; j++) {
            if (i + j >= ld)
                continue;
            const float value = i + j < N ? expf(scale * (to_f32(x_r[i + j]) - most)) * inverse : 0;
            const T rounded = from_f32<T>(value);
            p[r * ld + i + j] = rounded;
            dropped[r * ld + i + j] = from_f32<T>(i + j < N ? to_f32(rounded) * factor[j] : 0);
            kept += value * factor[j];
        }
    }
    kept = warp_sum(kept);
    if (lane == 0)
        sums[r] = kept;
}

cudaError_t cuda_softmax_forward(struct cuda_launch launch, act *p, act *dropped, float *sums,
                                 const act *x, float scale, const struct ops_dropout *dropout,
                                 int64_t S, int64_t rows, int64_t N, int64_t ld)
{
    const int64_t R = S * rows;
    if (R == 0)
        return cudaSuccess;
    const struct row_dropout drop = row_dropout_of(dropout, rows, N);
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((softmax_forward_kernel<T>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)p, (T *)dropped, sums, (const T *)x, scale, drop, R, N, ld);
    });
    return cudaGetLastError();
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    softmax_drop_kernel(T *dropped, const T *p, const struct row_dropout drop, int64_t R, int64_t N,
                        int64_t ld)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= R)
        return;
    for (int64_t i = 4 * (int64_t)(threadIdx.x % 32); i < ld; i += 128) {
        float factor[4];
        drop.factors(factor, r, i);
        CU_UNROLL
        for (int j = 0; j < 4; j++)
            if (i + j < ld)
                dropped[r * ld + i + j] =
                    from_f32<T>(i + j < N ? to_f32(p[r * ld + i + j]) * factor[j] : 0);
    }
}

cudaError_t cuda_softmax_drop(struct cuda_launch launch, act *dropped, const act *p,
                              const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                              int64_t ld)
{
    const int64_t R = S * rows;
    if (R == 0)
        return cudaSuccess;
    const struct row_dropout drop = row_dropout_of(dropout, rows, N);
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((softmax_drop_kernel<T>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)dropped, (const T *)p, drop, R, N, ld);
    });
    return cudaGetLastError();
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    softmax_backward_kernel(T *d_x, const T *d_dropped, const float *d_sums, const T *p,
                            float scale, const struct row_dropout drop, int64_t R, int64_t N,
                            int64_t ld)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t lane = threadIdx.x % 32;
    if (r >= R)
        return;
    const float d_sum = d_sums[r];
    float dot = 0, factor[4];
    for (int64_t i = 4 * lane; i < N; i += 128) {
        drop.factors(factor, r, i);
        CU_UNROLL
        for (int j = 0; j < 4; j++)
            if (i + j < N)
                dot += to_f32(p[r * ld + i + j]) * factor[j] *
                       (to_f32(d_dropped[r * ld + i + j]) + d_sum);
    }
    dot = warp_sum(dot);
    for (int64_t i = 4 * lane; i < ld; i += 128) {
        drop.factors(factor, r, i);
        CU_UNROLL
        for (int j = 0; j < 4; j++) {
            if (i + j >= ld)
                continue;
            float value = 0;
            if (i + j < N)
                value = scale * to_f32(p[r * ld + i + j]) *
                        (factor[j] * (to_f32(d_dropped[r * ld + i + j]) + d_sum) - dot);
            d_x[r * ld + i + j] = from_f32<T>(value);
        }
    }
}

cudaError_t cuda_softmax_backward(struct cuda_launch launch, act *d_x, const act *d_dropped,
                                  const float *d_sums, const act *p, float scale,
                                  const struct ops_dropout *dropout, int64_t S, int64_t rows,
                                  int64_t N, int64_t ld)
{
    const int64_t R = S * rows;
    if (R == 0)
        return cudaSuccess;
    const struct row_dropout drop = row_dropout_of(dropout, rows, N);
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((softmax_backward_kernel<T>), (unsigned)cu_ceil_div(R, WARPS), THREADS, 0,
                  launch.stream, (T *)d_x, (const T *)d_dropped, d_sums, (const T *)p, scale, drop,
                  R, N, ld);
    });
    return cudaGetLastError();
}
