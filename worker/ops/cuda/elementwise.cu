/* worker/ops/cuda/elementwise.cu - conversions, sums, bias and activations, SwiGLU, dropout: a thread
 * takes one vector of 16 bytes at a time; bound by memory, dropout by Philox (10 rounds for 4
 * elements).
 *
 * Bytes      an element of size s: convert s_x + s_y, add 3 s, activation backward 3 s, bias and
 *            activation 2 s (3 s with saved_pre), SwiGLU 3 s forward and 5 s backward, dropout 2 s.
 */
#include "worker/ops/cuda/dropout.cuh"
#include "worker/ops/cuda/functions.cuh"

enum { THREADS = 256 };

/* f(first element, vector length) for the thread's share of `count`: whole vectors, then the last
 * elements one by one. */
template <int V, typename F> __device__ __forceinline__ void each_vector(int64_t count, F f)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < count; i += step) {
        if (i + V <= count)
            f(i, length<V>{});
        else
            for (int64_t j = i; j < count; j++)
                f(j, length<1>{});
    }
}

/* -- conversions -- */

template <typename Y, typename X, int V>
__global__ void __launch_bounds__(THREADS) convert_kernel(Y *y, const X *x, int64_t count)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        float values[n.value];
        load<n.value>(values, x + i);
        store<n.value>(y + i, values);
    });
}

template <typename Y, typename X>
static void convert(cudaStream_t stream, Y *y, const X *x, int64_t count)
{
    constexpr int V = 8; /* for f32 two vectors' worth, whose alignment is 32 */
    if ((uintptr_t)y % (sizeof(Y) * V) == 0 && (uintptr_t)x % (sizeof(X) * V) == 0)
        CU_LAUNCH((convert_kernel<Y, X, V>), cu_blocks(count, THREADS * V), THREADS, 0, stream, y,
                  x, count);
    else
        CU_LAUNCH((convert_kernel<Y, X, 1>), cu_blocks(count, THREADS), THREADS, 0, stream, y, x,
                  count);
}

template <typename Y>
static cudaError_t convert_from(cudaStream_t stream, Y *y, const void *x, enum bl_dtype dtype,
                                int64_t count)
{
    switch (dtype) {
    case BL_F32:
        convert(stream, y, (const float *)x, count);
        return cudaGetLastError();
    case BL_F16:
        convert(stream, y, (const f16 *)x, count);
        return cudaGetLastError();
    case BL_BF16:
        convert(stream, y, (const bf16 *)x, count);
        return cudaGetLastError();
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t cuda_convert(cudaStream_t stream, void *y, enum bl_dtype y_dtype, const void *x,
                         enum bl_dtype x_dtype, int64_t count)
{
    if (y_dtype != BL_F32 && y_dtype != BL_BF16)
        return cudaErrorInvalidValue;
    if (count == 0)
        return cudaSuccess;
    return y_dtype == BL_F32 ? convert_from(stream, (float *)y, x, x_dtype, count)
                             : convert_from(stream, (bf16 *)y, x, x_dtype, count);
}

/* A row of the grid for each matrix; the list is an argument of the kernel. */
__global__ void __launch_bounds__(THREADS) follow_masters_kernel(const struct cuda_masters masters)
{
    const struct cuda_master &one = masters.at[blockIdx.y];
    const float *x = one.x;
    bf16 *y = (bf16 *)one.y;
    const auto follow = [=](int64_t i, auto n) {
        float values[n.value];
        load<n.value>(values, x + i);
        store<n.value>(y + i, values);
    };
    if ((uintptr_t)y % 16 == 0 && (uintptr_t)x % 32 == 0)
        each_vector<8>(one.count, follow);
    else
        each_vector<1>(one.count, follow);
}

cudaError_t cuda_follow_masters(cudaStream_t stream, const struct cuda_masters *masters)
{
    enum { BLOCKS = 64 }; /* of a matrix: some thousand for all of a model's */
    if (masters->count == 0)
        return cudaSuccess;
    CU_LAUNCH(follow_masters_kernel, dim3(BLOCKS, (unsigned)masters->count), THREADS, 0, stream,
              *masters);
    return cudaGetLastError();
}

/* -- sums and activations -- */

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) add_kernel(T *y, const T *a, const T *b, int64_t count)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        float x[n.value], more[n.value];
        load<n.value>(x, a + i);
        load<n.value>(more, b + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            x[j] += more[j];
        store<n.value>(y + i, x);
    });
}

cudaError_t cuda_add(struct cuda_launch launch, act *y, const act *a, const act *b, int64_t count)
{
    if (count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, a, b), [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((add_kernel<T, V>), cu_blocks(count, THREADS * V), THREADS, 0, launch.stream,
                  (T *)y, (const T *)a, (const T *)b, count);
    });
    return cudaGetLastError();
}

template <typename T, int V, enum ops_epilogue F>
__global__ void __launch_bounds__(THREADS)
    activation_backward_kernel(T *d_x, const T *d_y, const T *pre, int64_t count)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        float d[n.value], x[n.value];
        load<n.value>(d, d_y + i);
        load<n.value>(x, pre + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            d[j] *= activation_slope<F>(x[j]);
        store<n.value>(d_x + i, d);
    });
}

cudaError_t cuda_activation_backward(struct cuda_launch launch, act *d_x, const act *d_y,
                                     const act *pre, enum ops_epilogue epilogue, int64_t count)
{
    if (count == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_x, d_y, pre), [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        by_epilogue(epilogue, [&](auto f) {
            CU_LAUNCH((activation_backward_kernel<T, V, decltype(f)::value>),
                      cu_blocks(count, THREADS * V), THREADS, 0, launch.stream, (T *)d_x,
                      (const T *)d_y, (const T *)pre, count);
        });
    });
    return cudaGetLastError();
}

/* N is a multiple of V. */
template <typename T, int V, enum ops_epilogue F>
__global__ void __launch_bounds__(THREADS)
    bias_activation_kernel(T *y, T *saved_pre, const T *x, const float *bias, int64_t count,
                           int64_t N)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        float value[n.value], b[n.value];
        load<n.value>(value, x + i);
        if (bias) {
            load_f32<n.value>(b, bias + i % N);
            CU_UNROLL
            for (int j = 0; j < n.value; j++)
                value[j] += b[j];
        }
        if (saved_pre)
            store<n.value>(saved_pre + i, value);
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            value[j] = activation<F>(value[j]);
        store<n.value>(y + i, value);
    });
}

cudaError_t cuda_bias_activation(struct cuda_launch launch, act *y, act *saved_pre, const act *x,
                                 const float *bias, int64_t R, int64_t N,
                                 enum ops_epilogue epilogue)
{
    const int64_t count = R * N;
    if (count == 0)
        return cudaSuccess;
    const bool vectors = aligned(y, saved_pre, x, bias) && N % 8 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        by_epilogue(epilogue, [&](auto f) {
            CU_LAUNCH((bias_activation_kernel<T, V, decltype(f)::value>),
                      cu_blocks(count, THREADS * V), THREADS, 0, launch.stream, (T *)y,
                      (T *)saved_pre, (const T *)x, bias, count, N);
        });
    });
    return cudaGetLastError();
}

/* -- SwiGLU: D is a multiple of V -- */

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    swiglu_forward_kernel(T *y, const T *x, int64_t count, int64_t D)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        const T *gate_at = x + i / D * 2 * D + i % D;
        float gate[n.value], up[n.value];
        load<n.value>(gate, gate_at);
        load<n.value>(up, gate_at + D);
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            up[j] *= activation<OPS_SILU>(gate[j]);
        store<n.value>(y + i, up);
    });
}

cudaError_t cuda_swiglu_forward(struct cuda_launch launch, act *y, const act *x, int64_t R,
                                int64_t D)
{
    if (R * D == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(y, x) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((swiglu_forward_kernel<T, V>), cu_blocks(R * D, THREADS * V), THREADS, 0,
                  launch.stream, (T *)y, (const T *)x, R * D, D);
    });
    return cudaGetLastError();
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    swiglu_backward_kernel(T *d_x, const T *d_y, const T *x, int64_t count, int64_t D)
{
    each_vector<V>(count, [=](int64_t i, auto n) {
        const int64_t gate_at = i / D * 2 * D + i % D;
        float gate[n.value], up[n.value], d[n.value], d_up[n.value];
        load<n.value>(gate, x + gate_at);
        load<n.value>(up, x + gate_at + D);
        load<n.value>(d, d_y + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++) {
            d_up[j] = d[j] * activation<OPS_SILU>(gate[j]);
            d[j] *= up[j] * activation_slope<OPS_SILU>(gate[j]);
        }
        store<n.value>(d_x + gate_at, d);
        store<n.value>(d_x + gate_at + D, d_up);
    });
}

cudaError_t cuda_swiglu_backward(struct cuda_launch launch, act *d_x, const act *d_y, const act *x,
                                 int64_t R, int64_t D)
{
    if (R * D == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_x, d_y, x) && D % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        CU_LAUNCH((swiglu_backward_kernel<T, V>), cu_blocks(R * D, THREADS * V), THREADS, 0,
                  launch.stream, (T *)d_x, (const T *)d_y, (const T *)x, R * D, D);
    });
    return cudaGetLastError();
}

/* -- dropout -- */

/* A thread takes four consecutive elements of a sample, one Philox block, at a time; in vectors the
 * sample's size is a multiple of 4. Without dropout (d.keep 0) it copies. */
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(T *y, const T *x, const struct dropout_site d, int64_t S, int64_t sample)
{
    const int64_t quads = (sample + 3) / 4, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < S * quads; i += step) {
        const int64_t s = i / quads, quad = i % quads, at = s * sample + 4 * quad;
        float factor[4] = {1, 1, 1, 1}, value[4];
        if (d.keep != 0)
            dropout_quad(factor, d, (uint32_t)d.positions[s], (uint32_t)quad);
        if (VECTORS) {
            load<4>(value, x + at);
            CU_UNROLL
            for (int j = 0; j < 4; j++)
                value[j] *= factor[j];
            store<4>(y + at, value);
        } else {
            CU_UNROLL
            for (int j = 0; j < 4; j++)
                if (4 * quad + j < sample)
                    y[at + j] = from_f32<T>(to_f32(x[at + j]) * factor[j]);
        }
    }
}

cudaError_t cuda_dropout(struct cuda_launch launch, act *y, const act *x,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t D)
{
    const int64_t sample = rows * D, work = S * ((sample + 3) / 4);
    if (work == 0)
        return cudaSuccess;
    const struct dropout_site d = dropout_site(dropout);
    const bool vectors = aligned(y, x) && sample % 4 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        CU_LAUNCH((dropout_kernel<T, (decltype(n)::value > 1)>), cu_blocks(work, THREADS), THREADS,
                  0, launch.stream, (T *)y, (const T *)x, d, S, sample);
    });
    return cudaGetLastError();
}
