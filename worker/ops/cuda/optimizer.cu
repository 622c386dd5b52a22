/* worker/ops/cuda/optimizer.cu - gradient norm, AdamW, moving average, fixed-point sums: over flat
 * buffers, so a whole model takes one launch; bound by memory.
 *
 * Order      the norm: strided threads in f64, a butterfly, then the blocks' sums by the same; the
 *            number of blocks is a function of `count` alone. Fixed-point sums are exact.
 * Bytes      a number: norm 4, AdamW 28, moving average 12, adding to fixed point 20, reading it 12.
 */
#include "worker/ops/cuda/cuda.cuh"

#include <math.h>

enum { THREADS = 256, V = 4, NORM_BLOCKS_MAX = 1024, NORM_NUMBERS = THREADS * V * 4 };

/* f(i, length) for the thread's share of `count`: vectors where VECTORS, then single numbers. */
template <bool VECTORS, typename F> __device__ __forceinline__ void each(int64_t count, F f)
{
    const int64_t thread = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t threads = (int64_t)gridDim.x * THREADS;
    const int64_t whole = VECTORS ? count / V * V : 0;
    for (int64_t i = thread * V; i < whole; i += threads * V)
        f(i, length<V>{});
    for (int64_t i = whole + thread; i < count; i += threads)
        f(i, length<1>{});
}

/* f(true or false as a type) */
template <typename F> static cudaError_t by_alignment(bool vectors, F f)
{
    vectors ? f(length<1>{}) : f(length<0>{});
    return cudaGetLastError();
}

/* -- norm -- */

static unsigned norm_blocks(int64_t count)
{
    const int64_t blocks = cu_ceil_div(count, NORM_NUMBERS), most = NORM_BLOCKS_MAX;
    return (unsigned)(blocks < most ? blocks : most);
}

/* partial (blocks, 2) = sum of squares, number of values that are not finite. The bits do not depend
 * on the address: without vectors a thread takes the same numbers one by one. */
template <bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    norm_partial_kernel(double *partial, const float *g, int64_t count, double scale)
{
    double squares = 0;
    int bad = 0;
    const int64_t step = (int64_t)gridDim.x * THREADS * V;
    for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V; i < count; i += step) {
        float value[V] = {};
        if (VECTORS && i + V <= count) {
            load<V>(value, g + i);
        } else {
            CU_UNROLL
            for (int j = 0; j < V; j++)
                if (i + j < count)
                    value[j] = g[i + j];
        }
        CU_UNROLL
        for (int j = 0; j < V; j++) {
            const double x = value[j] * scale;
            squares += x * x;
            bad += !(fabsf(value[j]) <= 0x1.fffffep127f);
        }
    }
    squares = block_sum<THREADS>(squares);
    bad = block_sum<THREADS>(bad);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = squares;
        partial[2 * blockIdx.x + 1] = bad;
    }
}

__global__ void __launch_bounds__(THREADS)
    norm_total_kernel(double *out, const double *partial, int64_t blocks)
{
    double squares = 0, bad = 0;
    for (int64_t i = threadIdx.x; i < blocks; i += THREADS) {
        squares += partial[2 * i];
        bad += partial[2 * i + 1];
    }
    squares = block_sum<THREADS>(squares);
    bad = block_sum<THREADS>(bad);
    if (threadIdx.x == 0) {
        out[0] += squares;
        out[1] += bad;
    }
}

size_t cuda_grad_norm_scratch(int64_t count)
{
    return (size_t)(norm_blocks(count) + 1) * 2 * sizeof(double);
}

cudaError_t cuda_grad_norm(cudaStream_t stream, double *out, const float *g, int64_t count,
                           double scale, void *scratch)
{
    if (count == 0)
        return cudaSuccess;
    const unsigned blocks = norm_blocks(count);
    double *partial = (double *)scratch;
    by_alignment(aligned(g), [&](auto vectors) {
        CU_LAUNCH((norm_partial_kernel<(decltype(vectors)::value > 0)>), blocks, THREADS, 0, stream,
                  partial, g, count, scale);
    });
    CU_LAUNCH(norm_total_kernel, 1, THREADS, 0, stream, out, partial, blocks);
    return cudaGetLastError();
}

/* -- AdamW (worker/ops/cpu/optimizer.c): constants are computed in f64 on the host -- */

namespace
{
struct adamw_constants {
    float factor, eps, beta1, rest1, beta2, rest2, keep, step, unbias;
};
} // namespace

template <bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *p, float *m, float *v, const float *g, int64_t count,
                 const struct adamw_constants o)
{
    each<VECTORS>(count, [=](int64_t i, auto n) {
        float p_i[n.value], m_i[n.value], v_i[n.value], g_i[n.value];
        load<n.value>(p_i, p + i);
        load<n.value>(m_i, m + i);
        load<n.value>(v_i, v + i);
        load<n.value>(g_i, g + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++) {
            const float x = g_i[j] * o.factor;
            m_i[j] = o.beta1 * m_i[j] + o.rest1 * x;
            v_i[j] = o.beta2 * v_i[j] + o.rest2 * (x * x);
            p_i[j] = o.keep * p_i[j] - o.step * m_i[j] / (sqrtf(v_i[j]) * o.unbias + o.eps);
        }
        store<n.value>(p + i, p_i);
        store<n.value>(m + i, m_i);
        store<n.value>(v + i, v_i);
    });
}

cudaError_t cuda_adamw(cudaStream_t stream, float *p, float *m, float *v, const float *g,
                       int64_t count, double scale, const struct ops_adamw *o)
{
    if (count == 0)
        return cudaSuccess;
    struct adamw_constants c;
    c.factor = (float)scale;
    c.eps = (float)o->eps;
    c.beta1 = (float)o->beta1;
    c.rest1 = (float)(1 - o->beta1);
    c.beta2 = (float)o->beta2;
    c.rest2 = (float)(1 - o->beta2);
    c.keep = (float)(1 - o->lr * o->weight_decay);
    c.step = (float)(o->lr / (1 - pow(o->beta1, (double)o->t)));
    c.unbias = (float)(1 / sqrt(1 - pow(o->beta2, (double)o->t)));
    return by_alignment(aligned(p, m, v, g), [&](auto vectors) {
        CU_LAUNCH((adamw_kernel<(decltype(vectors)::value > 0)>), cu_blocks(count, THREADS * V),
                  THREADS, 0, stream, p, m, v, g, count, c);
    });
}

/* -- moving average -- */

template <bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    ema_kernel(float *ema, const float *p, int64_t count, float decay)
{
    each<VECTORS>(count, [=](int64_t i, auto n) {
        float old[n.value], value[n.value];
        load<n.value>(old, ema + i);
        load<n.value>(value, p + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            old[j] = decay * old[j] + (1 - decay) * value[j];
        store<n.value>(ema + i, old);
    });
}

cudaError_t cuda_ema(cudaStream_t stream, float *ema, const float *p, int64_t count, float decay)
{
    if (count == 0)
        return cudaSuccess;
    return by_alignment(aligned(ema, p), [&](auto vectors) {
        CU_LAUNCH((ema_kernel<(decltype(vectors)::value > 0)>), cu_blocks(count, THREADS * V),
                  THREADS, 0, stream, ema, p, count, decay);
    });
}

/* -- fixed point -- */

/* g 2^36 rounded to the nearest integer, ties to even, by the CPU's own steps: from 2^51 on it is one;
 * below, adding and taking away 1.5 2^52 leaves no room for a fraction. */
__device__ __forceinline__ int64_t to_fixed(float g)
{
    const double magic = 0x1.8p52, value = (double)g * OPS_FIXED_SCALE;
    const double rounded = (value + magic) - magic;
    return (int64_t)(fabs(value) < 0x1p51 ? rounded : value);
}

template <bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    fixed_add_kernel(int64_t *acc, int64_t *bad, const float *g, int64_t count, float limit)
{
    int bad_sum = 0;
    each<VECTORS>(count, [&](int64_t i, auto n) {
        float value[n.value];
        load<n.value>(value, g + i);
        CU_UNROLL
        for (int j = 0; j < n.value; j++) {
            const bool good = fabsf(value[j]) < limit;
            bad_sum += !good;
            acc[i + j] += to_fixed(good ? value[j] : 0);
        }
    });
    bad_sum = block_sum<THREADS>(bad_sum);
    if (threadIdx.x == 0 && bad_sum > 0)
        atomicAdd((unsigned long long *)bad, (unsigned long long)bad_sum);
}

cudaError_t cuda_fixed_add(cudaStream_t stream, int64_t *acc, int64_t *bad, const float *g,
                           int64_t count, float limit)
{
    if (count == 0)
        return cudaSuccess;
    return by_alignment(aligned(acc, g), [&](auto vectors) {
        CU_LAUNCH((fixed_add_kernel<(decltype(vectors)::value > 0)>), cu_blocks(count, THREADS * V),
                  THREADS, 0, stream, acc, bad, g, count, limit);
    });
}

template <bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    fixed_get_kernel(float *g, const int64_t *acc, int64_t count)
{
    each<VECTORS>(count, [=](int64_t i, auto n) {
        float value[n.value];
        CU_UNROLL
        for (int j = 0; j < n.value; j++)
            value[j] = (float)((double)acc[i + j] / OPS_FIXED_SCALE);
        store<n.value>(g + i, value);
    });
}

cudaError_t cuda_fixed_get(cudaStream_t stream, float *g, const int64_t *acc, int64_t count)
{
    if (count == 0)
        return cudaSuccess;
    return by_alignment(aligned(g, acc), [&](auto vectors) {
        CU_LAUNCH((fixed_get_kernel<(decltype(vectors)::value > 0)>), cu_blocks(count, THREADS * V),
                  THREADS, 0, stream, g, acc, count);
    });
}
