/* worker/ops/cuda/router.cu - mixture of experts: the router's softmax, the dense mixture and both
 * backward passes. B images, E experts: a thread per image for the router's part, which is tiny.
 *
 * Order      d_w of an image: its elements in parts, a function of their number alone; a part by
 *            strided threads and a butterfly, then the parts in order.
 * Bytes      an element of size s: mixing (E + 1) s, backward 3 s an expert: bound by memory.
 */
#include "worker/ops/cuda/cuda.cuh"

enum { THREADS = 256, PART = 1 << 14 };

template <typename T>
__global__ void __launch_bounds__(THREADS)
    router_softmax_kernel(float *w, float *lse, const T *z, int64_t B, int64_t E)
{
    const int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (b >= B)
        return;
    const T *z_b = z + b * E;
    float *w_b = w + b * E, most = to_f32(z_b[0]), sum = 0;
    for (int64_t e = 1; e < E; e++)
        most = fmaxf(most, to_f32(z_b[e]));
    for (int64_t e = 0; e < E; e++) {
        w_b[e] = expf(to_f32(z_b[e]) - most);
        sum += w_b[e];
    }
    for (int64_t e = 0; e < E; e++)
        w_b[e] /= sum;
    if (lse)
        lse[b] = most + logf(sum);
}

cudaError_t cuda_router_softmax(struct cuda_launch launch, float *w, float *lse, const act *z,
                                int64_t B, int64_t E)
{
    if (B == 0)
        return cudaSuccess;
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((router_softmax_kernel<T>), (unsigned)cu_ceil_div(B, THREADS), THREADS, 0,
                  launch.stream, w, lse, (const T *)z, B, E);
    });
    return cudaGetLastError();
}

/* An image has `count` elements, a multiple of V; x (E, B, count). Added in f32, rounded once. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    mix_forward_kernel(T *y, const T *x, const float *w, int64_t E, int64_t count)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V, b = blockIdx.y;
    if (i >= count)
        return;
    const int64_t at = b * count + i, stride = (int64_t)gridDim.y * count;
    float sum[V], value[V];
    CU_UNROLL
    for (int j = 0; j < V; j++)
        sum[j] = 0;
    CU_UNROLL_BY(4)
    for (int64_t e = 0; e < E; e++) {
        load<V>(value, x + e * stride + at);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            sum[j] += w[b * E + e] * value[j];
    }
    store<V>(y + at, sum);
}

cudaError_t cuda_mix_forward(struct cuda_launch launch, act *y, const act *x, const float *w,
                             int64_t B, int64_t E, int64_t rows, int64_t D)
{
    const int64_t count = rows * D;
    if (B * count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x) && count % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        const dim3 grid((unsigned)cu_ceil_div(count, THREADS * V), (unsigned)B);
        CU_LAUNCH((mix_forward_kernel<T, V>), grid, THREADS, 0, launch.stream, (T *)y, (const T *)x,
                  w, E, count);
    });
    return cudaGetLastError();
}

/* partial (B, parts) = <d_y, x> over a part of an image. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    mix_backward_kernel(T *d_x, float *partial, const T *d_y, const T *x, const float *w, int64_t e,
                        int64_t E, int64_t count)
{
    const int64_t b = blockIdx.y, first = (int64_t)blockIdx.x * PART;
    const int64_t end = first + PART < count ? first + PART : count;
    const float weight = w[b * E + e];
    float dot = 0, d[V], value[V];
    CU_UNROLL_BY(4)
    for (int64_t i = first + (int64_t)threadIdx.x * V; i < end; i += THREADS * V) {
        load<V>(d, d_y + b * count + i);
        load<V>(value, x + b * count + i);
        CU_UNROLL
        for (int j = 0; j < V; j++) {
            dot += d[j] * value[j];
            d[j] *= weight;
        }
        store<V>(d_x + b * count + i, d);
    }
    dot = block_sum<THREADS>(dot);
    if (threadIdx.x == 0)
        partial[b * gridDim.x + blockIdx.x] = dot;
}

__global__ void __launch_bounds__(THREADS)
    mix_weight_kernel(float *d_w, const float *partial, int64_t parts, int64_t e, int64_t B,
                      int64_t E)
{
    const int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (b >= B)
        return;
    float sum = 0;
    for (int64_t i = 0; i < parts; i++)
        sum += partial[b * parts + i];
    d_w[b * E + e] = sum;
}

size_t cuda_mix_backward_scratch(int64_t B, int64_t rows, int64_t D)
{
    return (size_t)(B * cu_ceil_div(rows * D, PART) + 1) * sizeof(float);
}

cudaError_t cuda_mix_backward(struct cuda_launch launch, act *d_x, float *d_w, const act *d_y,
                              const act *x, const float *w, int64_t e, int64_t B, int64_t E,
                              int64_t rows, int64_t D, void *scratch)
{
    const int64_t count = rows * D, parts = cu_ceil_div(count, PART);
    float *partial = (float *)scratch;
    if (B * count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_x, d_y, x) && count % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((mix_backward_kernel<T, V>), dim3((unsigned)parts, (unsigned)B), THREADS, 0,
                  launch.stream, (T *)d_x, partial, (const T *)d_y, (const T *)x, w, e, E, count);
    });
    CU_LAUNCH(mix_weight_kernel, (unsigned)cu_ceil_div(B, THREADS), THREADS, 0, launch.stream, d_w,
              partial, parts, e, B, E);
    return cudaGetLastError();
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    router_backward_kernel(T *d_z, const float *d_w, const float *w, const float *lse,
                           const float *P, double tokens, double images, float alpha, float beta,
                           int64_t B, int64_t E)
{
    const int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (b >= B)
        return;
    const float *w_b = w + b * E;
    double mean = 0; /* sum_e w g */
    for (int pass = 0; pass < 2; pass++)
        for (int64_t e = 0; e < E; e++) {
            const double g = d_w[b * E + e] / tokens + alpha * (double)E * 2 * P[e] / images;
            if (pass == 0)
                mean += w_b[e] * g;
            else
                d_z[b * E + e] =
                    from_f32<T>((float)(w_b[e] * (g - mean) + 2 * beta / images * lse[b] * w_b[e]));
        }
}

cudaError_t cuda_router_backward(struct cuda_launch launch, act *d_z, const float *d_w,
                                 const float *w, const float *lse, const float *P, double tokens,
                                 double images, float alpha, float beta, int64_t B, int64_t E)
{
    if (B == 0)
        return cudaSuccess;
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((router_backward_kernel<T>), (unsigned)cu_ceil_div(B, THREADS), THREADS, 0,
                  launch.stream, (T *)d_z, d_w, w, lse, P, tokens, images, alpha, beta, B, E);
    });
    return cudaGetLastError();
}
