/* worker/ops/cuda/rows.cu - moving rows, repeating and averaging them, image patches: bound by memory.
 *
 * Order      broadcast_rows_backward: an element sums its samples in order. mean_rows: of a sample each
 *            of 8 warps sums every eighth row in order, then the 8 sums are added in order.
 * Bytes      an element of size s: gather, scatter, embed 2 s; broadcast s (2 s accumulating), the
 *            parameter comes from the L2 cache; its backward and mean s; patchify s + 1.
 */
#include "worker/ops/cuda/cuda.cuh"

enum { THREADS = 128, MEAN_WARPS = 8 };

/* -- moving: a block per row -- */

/* y[to ? to[r] : r] = x[from ? from[r] : r] */
template <typename Y, typename X, int V>
__global__ void __launch_bounds__(THREADS)
    move_rows_kernel(Y *y, const int32_t *to, const X *x, const int32_t *from, int64_t D)
{
    const int64_t r = blockIdx.x;
    Y *y_r = y + (to ? to[r] : r) * D;
    const X *x_r = x + (from ? from[r] : r) * D;
    CU_UNROLL_BY(2)
    for (int64_t i = (int64_t)threadIdx.x * V; i < D; i += THREADS * V) {
        float value[V];
        load<V>(value, x_r + i);
        store<V>(y_r + i, value);
    }
}

static cudaError_t move_rows(struct cuda_launch launch, act *y, const int32_t *to, const act *x,
                             const int32_t *from, int64_t R, int64_t D)
{
    if (R * D == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((move_rows_kernel<T, T, V>), (unsigned)R, THREADS, 0, launch.stream, (T *)y, to,
                  (const T *)x, from, D);
    });
    return cudaGetLastError();
}

cudaError_t cuda_gather_rows(struct cuda_launch launch, act *y, const act *x, const int32_t *index,
                             int64_t R, int64_t D)
{
    return move_rows(launch, y, nullptr, x, index, R, D);
}

cudaError_t cuda_scatter_rows(struct cuda_launch launch, act *y, const act *x, const int32_t *index,
                              int64_t R, int64_t D)
{
    return move_rows(launch, y, index, x, nullptr, R, D);
}

template <typename X>
static void embed(struct cuda_launch launch, act *y, const X *table, const int32_t *ids, int64_t R,
                  int64_t D)
{
    by_act(launch.act, aligned(y, table) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value > 1 ? 4 : 1;
        CU_LAUNCH((move_rows_kernel<T, X, V>), (unsigned)R, THREADS, 0, launch.stream, (T *)y,
                  (const int32_t *)nullptr, table, ids, D);
    });
}

cudaError_t cuda_embed(struct cuda_launch launch, act *y, const void *table, enum bl_dtype dtype,
                       const int32_t *ids, int64_t R, int64_t D)
{
    if (R * D == 0)
        return cudaSuccess;
    switch (dtype) {
    case BL_F32:
        embed(launch, y, (const float *)table, ids, R, D);
        return cudaGetLastError();
    case BL_F16:
        embed(launch, y, (const f16 *)table, ids, R, D);
        return cudaGetLastError();
    case BL_BF16:
        embed(launch, y, (const bf16 *)table, ids, R, D);
        return cudaGetLastError();
    default:
        return cudaErrorInvalidValue;
    }
}

/* -- repeating: a thread per vector of the parameter and sample -- */

/* param holds `count` elements, a multiple of V. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    broadcast_rows_kernel(T *y, const float *param, int64_t count, bool accumulate)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i >= count)
        return;
    float value[V], old[V];
    T *y_i = y + blockIdx.y * count + i;
    load_f32<V>(value, param + i);
    if (accumulate) {
        load<V>(old, y_i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            value[j] += old[j];
    }
    store<V>(y_i, value);
}

cudaError_t cuda_broadcast_rows(struct cuda_launch launch, act *y, const float *param, int64_t S,
                                int64_t rows, int64_t D, bool accumulate)
{
    const int64_t count = rows * D;
    if (S * count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, param) && count % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        const dim3 grid((unsigned)cu_ceil_div(count, THREADS * V), (unsigned)S);
        CU_LAUNCH((broadcast_rows_kernel<T, V>), grid, THREADS, 0, launch.stream, (T *)y, param,
                  count, accumulate);
    });
    return cudaGetLastError();
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    broadcast_rows_backward_kernel(float *d_param, const T *d_y, int64_t S, int64_t count)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i >= count)
        return;
    float sum[V], value[V];
    load_f32<V>(sum, d_param + i);
    CU_UNROLL_BY(8)
    for (int64_t s = 0; s < S; s++) {
        load<V>(value, d_y + s * count + i);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            sum[j] += value[j];
    }
    store_f32<V>(d_param + i, sum);
}

cudaError_t cuda_broadcast_rows_backward(struct cuda_launch launch, float *d_param, const act *d_y,
                                         int64_t S, int64_t rows, int64_t D)
{
    const int64_t count = rows * D;
    if (S * count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_param, d_y) && count % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value > 1 ? 4 : 1; /* narrow: there are few threads */
        CU_LAUNCH((broadcast_rows_backward_kernel<T, V>), (unsigned)cu_ceil_div(count, THREADS * V),
                  THREADS, 0, launch.stream, d_param, (const T *)d_y, S, count);
    });
    return cudaGetLastError();
}

/* -- averaging: a block per 32 vectors of columns and sample -- */

template <typename T, int V>
__global__ void __launch_bounds__(32 * MEAN_WARPS)
    mean_rows_kernel(T *y, const T *x, int64_t rows, int64_t first, int64_t D)
{
    CU_SHARED(float, warps, [MEAN_WARPS][32 * V]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t s = blockIdx.y, column = ((int64_t)blockIdx.x * 32 + lane) * V;
    float sum[V] = {}, value[V];
    if (column < D) {
        CU_UNROLL_BY(4)
        for (int64_t r = first + warp; r < rows; r += MEAN_WARPS) {
            load<V>(value, x + (s * rows + r) * D + column);
            CU_UNROLL
            for (int j = 0; j < V; j++)
                sum[j] += value[j];
        }
    }
    CU_UNROLL
    for (int j = 0; j < V; j++)
        warps[warp][lane * V + j] = sum[j];
    __syncthreads();
    if (warp > 0 || column >= D)
        return;
    for (int w = 1; w < MEAN_WARPS; w++)
        CU_UNROLL
    for (int j = 0; j < V; j++)
        sum[j] += warps[w][lane * V + j];
    CU_UNROLL
    for (int j = 0; j < V; j++)
        sum[j] /= (float)(rows - first);
    store<V>(y + s * D + column, sum);
}

cudaError_t cuda_mean_rows(struct cuda_launch launch, act *y, const act *x, int64_t S, int64_t rows,
                           int64_t first, int64_t D)
{
    if (S * D == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        const dim3 grid((unsigned)cu_ceil_div(D, 32 * V), (unsigned)S);
        CU_LAUNCH((mean_rows_kernel<T, V>), grid, 32 * MEAN_WARPS, 0, launch.stream, (T *)y,
                  (const T *)x, rows, first, D);
    });
    return cudaGetLastError();
}

/* -- patches: a block per patch -- */

namespace
{
struct channels {
    float scale[3], shift[3];
};
} // namespace

template <typename T>
__global__ void __launch_bounds__(THREADS)
    patchify_kernel(T *y, const uint8_t *pixels, int64_t size, int patch, int grid,
                    const struct channels channels)
{
    const int area = patch * patch, place = (int)(blockIdx.x % (unsigned)(grid * grid));
    const int64_t b = blockIdx.x / (unsigned)(grid * grid);
    const int64_t top = (int64_t)(place / grid) * patch, left = (int64_t)(place % grid) * patch;
    T *out = y + (int64_t)blockIdx.x * 3 * area;
    for (int i = (int)threadIdx.x; i < 3 * area; i += THREADS) {
        const int c = i / area, py = i % area / patch, px = i % patch;
        const uint8_t pixel = pixels[((b * size + top + py) * size + left + px) * 3 + c];
        const float scale = c == 0   ? channels.scale[0]
                            : c == 1 ? channels.scale[1]
                                     : channels.scale[2];
        const float shift = c == 0   ? channels.shift[0]
                            : c == 1 ? channels.shift[1]
                                     : channels.shift[2];
        out[i] = from_f32<T>((float)pixel * scale + shift);
    }
}

cudaError_t cuda_patchify(struct cuda_launch launch, act *y, const uint8_t *pixels, int64_t B,
                          int64_t size, int64_t patch, const float scale[3], const float shift[3])
{
    const int64_t grid = size / patch, rows = B * grid * grid;
    if (rows == 0)
        return cudaSuccess;
    const struct channels channels = {{scale[0], scale[1], scale[2]},
                                      {shift[0], shift[1], shift[2]}};
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((patchify_kernel<T>), (unsigned)rows, THREADS, 0, launch.stream, (T *)y, pixels,
                  size, (int)patch, (int)grid, channels);
    });
    return cudaGetLastError();
}
