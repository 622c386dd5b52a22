/* worker/ops/cuda/rope.cu - rotate-half RoPE in place: (a, b) = (x_i, x_{i + half}) turns by the angle
 * position inv_freq_i: a cos - b sin, b cos + a sin; its backward turns back.
 *
 * A thread takes one pair of HEADS heads of a row, so that the angle's sine and cosine are computed once
 * for them. Bound by memory: 4 s bytes a pair.
 */
#include "worker/ops/cuda/cuda.cuh"

enum { THREADS = 128, HEADS = 8 };

template <typename T>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(T *x, int64_t ld, const int32_t *position, const float *inv_freq, int64_t R,
                int64_t heads, int64_t half, float direction)
{
    const int64_t task = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t r = task / half, i = task % half, first = (int64_t)blockIdx.y * HEADS;
    if (r >= R)
        return;
    float sine, cosine;
    sincosf((float)position[r] * inv_freq[i], &sine, &cosine);
    sine *= direction;
    CU_UNROLL
    for (int h = 0; h < HEADS; h++) {
        if (first + h >= heads)
            return;
        T *a_at = x + r * ld + (first + h) * 2 * half + i, *b_at = a_at + half;
        const float a = to_f32(*a_at), b = to_f32(*b_at);
        *a_at = from_f32<T>(a * cosine - b * sine);
        *b_at = from_f32<T>(b * cosine + a * sine);
    }
}

cudaError_t cuda_rope(struct cuda_launch launch, act *x, int64_t ld, const int32_t *position,
                      const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim,
                      int direction)
{
    const int64_t half = head_dim / 2;
    if (R * heads * half == 0)
        return cudaSuccess;
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        const dim3 grid((unsigned)cu_ceil_div(R * half, THREADS),
                        (unsigned)cu_ceil_div(heads, HEADS));
        CU_LAUNCH((rope_kernel<T>), grid, THREADS, 0, launch.stream, (T *)x, ld, position, inv_freq,
                  R, heads, half, (float)direction);
    });
    return cudaGetLastError();
}
