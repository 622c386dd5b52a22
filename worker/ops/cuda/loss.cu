/* worker/ops/cuda/loss.cu - cross entropy over a chunk of logits z (R,V):  nll = lse(z) - z_label,
 * d_z = softmax(z) - onehot(label).
 *
 * Order      a block per row: each thread keeps a running maximum and sum over strided pieces
 *            (Milakov & Gimelshein 2018), then a butterfly over the threads.
 * Bytes      a logit: 4 for the sums, 4 and 2 or 4 for the gradient: bound by memory.
 */
#include "worker/ops/cuda/cuda.cuh"

#include <float.h>

enum { THREADS = 1024, WARPS = THREADS / 32, PIECES = 4 /* vectors a thread reads at once */ };

/* The greatest logit, where it is first, and the sum of e^(z - most). */
struct softmax_state {
    float most, sum;
    int64_t first;
};

/* Of two states; the same whichever comes first. */
__device__ __forceinline__ struct softmax_state merge(const struct softmax_state &a,
                                                      const struct softmax_state &b)
{
    const float most = fmaxf(a.most, b.most);
    const float sum = a.sum * expf(a.most - most) + b.sum * expf(b.most - most);
    int64_t first = a.most >= b.most ? a.first : b.first;
    if (a.most == b.most)
        first = a.first < b.first ? a.first : b.first;
    return softmax_state{most, sum, first};
}

__device__ __forceinline__ struct softmax_state warp_merge(struct softmax_state s)
{
    CU_UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        struct softmax_state other;
        other.most = __shfl_xor_sync(0xFFFFFFFFu, s.most, lanes);
        other.sum = __shfl_xor_sync(0xFFFFFFFFu, s.sum, lanes);
        other.first = __shfl_xor_sync(0xFFFFFFFFu, s.first, lanes);
        s = merge(s, other);
    }
    return s;
}

template <int N>
__device__ __forceinline__ void row_state(struct softmax_state &state, const float *z, int64_t V)
{
    state = {-FLT_MAX, 0, V};
    for (int64_t base = 0; base < V; base += (int64_t)THREADS * N * PIECES) {
        float value[PIECES][N], most = state.most;
        CU_UNROLL
        for (int p = 0; p < PIECES; p++) {
            const int64_t i = base + ((int64_t)p * THREADS + threadIdx.x) * N;
            CU_UNROLL
            for (int j = 0; j < N; j++)
                value[p][j] = -INFINITY;
            if (i < V)
                load<N>(value[p], z + i);
        }
        CU_UNROLL
        for (int p = 0; p < PIECES; p++)
            CU_UNROLL
        for (int j = 0; j < N; j++)
            most = fmaxf(most, value[p][j]);
        state.sum *= expf(state.most - most);
        bool found = state.most == most && state.first < V;
        CU_UNROLL
        for (int p = 0; p < PIECES; p++)
            CU_UNROLL
        for (int j = 0; j < N; j++) {
            state.sum += expf(value[p][j] - most);
            if (!found && value[p][j] == most) {
                state.first = base + ((int64_t)p * THREADS + threadIdx.x) * N + j;
                found = true;
            }
        }
        state.most = most;
    }
}

/* N logits a vector. In place, the bf16 gradient of a piece lies on logits that were read before: all
 * threads have read theirs before any writes. */
template <typename T, int N>
__device__ __forceinline__ void write_gradient(T *d, const float *z, float most, float inverse,
                                               int64_t label, int64_t V)
{
    for (int64_t base = 0; base < V; base += (int64_t)THREADS * N * PIECES) {
        float value[PIECES][N];
        CU_UNROLL
        for (int p = 0; p < PIECES; p++) {
            const int64_t i = base + ((int64_t)p * THREADS + threadIdx.x) * N;
            if (i < V)
                load<N>(value[p], z + i);
        }
        __syncthreads();
        CU_UNROLL
        for (int p = 0; p < PIECES; p++) {
            const int64_t i = base + ((int64_t)p * THREADS + threadIdx.x) * N;
            if (i >= V)
                continue;
            CU_UNROLL
            for (int j = 0; j < N; j++)
                value[p][j] = expf(value[p][j] - most) * inverse - (i + j == label ? 1.0f : 0.0f);
            store<N>(d + i, value[p]);
        }
    }
}

/* d and z of one row may overlap, so neither is __restrict__. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_kernel(float *nll, uint8_t *correct, T *d_logits, int64_t ld_d,
                         const float *logits, const int32_t *labels, int64_t V)
{
    CU_SHARED(struct softmax_state, warps, [WARPS]);
    const int64_t r = blockIdx.x, label = labels[r];
    const float *z = logits + r * V;
    struct softmax_state state;
    row_state<N>(state, z, V);
    state = warp_merge(state);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = state;
    __syncthreads();
    state = warp_merge(warps[threadIdx.x % 32]);
    const bool valid = label >= 0 && label < V;
    const float at_label = valid ? z[label] : NAN;
    if (threadIdx.x == 0) {
        nll[r] = logf(state.sum) - (at_label - state.most);
        if (correct)
            correct[r] = state.first == label;
    }
    if (!d_logits)
        return;
    __syncthreads(); /* z[label] has been read */
    const float inverse = valid ? 1 / state.sum : NAN;
    write_gradient<T, N>(d_logits + r * ld_d, z, state.most, inverse, label, V);
}

cudaError_t cuda_softmax_cross_entropy(struct cuda_launch launch, float *nll, uint8_t *correct,
                                       act *d_logits, int64_t ld_d, const float *logits,
                                       const int32_t *labels, int64_t R, int64_t V)
{
    if (R == 0)
        return cudaSuccess;
    const bool vectors = aligned(d_logits, logits) && V % 4 == 0 && ld_d % 8 == 0;
    by_act(launch.act, vectors, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int N = decltype(n)::value > 1 ? 4 : 1;
        CU_LAUNCH((cross_entropy_kernel<T, N>), (unsigned)R, THREADS, 0, launch.stream, nll,
                  correct, (T *)d_logits, ld_d, logits, labels, V);
    });
    return cudaGetLastError();
}
