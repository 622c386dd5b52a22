/* worker/ops/cuda/attention_mma_backward.cu - attention's backward pass on tensor cores, in bf16
 * (attention.cu has the formulas and computes D_i).
 *
 * Tiles      32 queries and 32 keys at a time, with their d_o and v in shared memory. d_q: a block of 2 warps
 *            has 32 queries of a head and goes through the keys. d_k and d_v: a block of 4 warps has 32 keys
 *            of a key/value head and goes through the queries of its heads; two warps share 16 keys, compute
 *            the same scores, and add to half of the columns each, for which there are registers.
 * Order      tiles in order; a tensor-core product sums 16 at a time.
 * Rounding   p and d_s are multiplied as two bf16 each, 16 bits in all: where few keys are visible, p is near
 *            one and the gradients of those keys would show its rounding. Sums are f32.
 * FLOP       a score: 8 head_dim for d_q, 16 for d_k and d_v; the formulas have 10. Bound by tensor cores and by reading shared
 *            memory for them.
 */
#include "worker/ops/cuda/attention_mma.cuh"

enum {
    ROWS = 32, /* of every tile */
    SCORE_TILES = ROWS / 8,
    Q_THREADS = 64,
    KV_THREADS = 128
};

namespace
{
struct mma_backward {
    bf16 *d_q, *d_k, *d_v;
    const bf16 *d_out, *q, *k, *v;
    const float *saved, *dots;
    int64_t ld_out, ld_q, ld_k, ld_v;
    struct attention_shape a;
};
} // namespace

/* p holds a score, not scaled, and d_p holds d_o v: p becomes m p, d_p becomes d_s. */
__device__ __forceinline__ void backward_one(float &p, float &d_p, bool sees, float factor,
                                             float scale, float lse, float dot)
{
    const float prob = sees ? exp2_fast((p * scale - lse) * 1.44269504088896341f) : 0;
    d_p = prob * (factor * d_p - dot) * scale;
    p = prob * factor;
}

/* -- d_q -- */

template <int DEPTH, bool DROPS>
__global__ void __launch_bounds__(Q_THREADS) backward_q_kernel(const struct mma_backward f)
{
    CU_DYNAMIC(shared);
    const mma_tile<DEPTH> queries = mma_tile_at<DEPTH, ROWS>(shared, 0);
    const mma_tile<DEPTH> d_outs = mma_tile_at<DEPTH, ROWS>(shared, 1);
    const mma_tile<DEPTH> keys = mma_tile_at<DEPTH, ROWS>(shared, 2);
    const mma_tile<DEPTH> values = mma_tile_at<DEPTH, ROWS>(shared, 3);
    const struct attention_shape &a = f.a;
    const int64_t h = blockIdx.y, s = blockIdx.z, kv = h / a.group;
    const struct attention_head head = attention_head(a, s, h);
    const int first = (int)blockIdx.x * ROWS, rows = head.q_len - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int end = visible(a, head, rows < ROWS ? head.q_len - 1 : first + ROWS - 1);
    const int64_t row_0 = head.q_row + first;
    mma_copy<DEPTH, ROWS, Q_THREADS>(queries, f.q + row_0 * f.ld_q + h * a.d, f.ld_q, rows, d);
    mma_copy<DEPTH, ROWS, Q_THREADS>(d_outs, f.d_out + row_0 * f.ld_out + h * a.d, f.ld_out, rows,
                                     d);
    const int query = first + 16 * warp + lane / 4; /* and query + 8 */
    int sees[2];
    float lse[2] = {}, dot[2] = {}, sum[2 * DEPTH][4] = {};
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        const int i = query + 8 * half;
        sees[half] = visible(a, head, i);
        if (i < head.q_len) {
            lse[half] = f.saved[(head.q_row + i) * a.heads + h];
            dot[half] = f.dots[(s * a.heads + h) * a.q_len_max + i];
        }
    }
    for (int j0 = 0; j0 < end; j0 += ROWS) {
        const int64_t key_0 = head.k_row + j0;
        __syncthreads(); /* nobody reads the last keys any more */
        mma_copy<DEPTH, ROWS, Q_THREADS>(keys, f.k + key_0 * f.ld_k + kv * a.d, f.ld_k, end - j0,
                                         d);
        mma_copy<DEPTH, ROWS, Q_THREADS>(values, f.v + key_0 * f.ld_v + kv * a.d, f.ld_v, end - j0,
                                         d);
        copy_wait();
        __syncthreads();
        float p[SCORE_TILES][4], d_s[SCORE_TILES][4];
        mma_scores<DEPTH, ROWS / 16>(p, queries + 16 * warp, keys);
        mma_scores<DEPTH, ROWS / 16>(d_s, d_outs + 16 * warp, values);
        CU_UNROLL
        for (int n = 0; n < SCORE_TILES; n++)
            CU_UNROLL
        for (int half = 0; half < 2; half++) {
            const int key = j0 + 8 * n + lane % 4 * 2;
            float factor[2] = {1, 1};
            if (DROPS)
                dropout_pair(factor, a.dropout, head.position,
                             (uint64_t)(head.first_element +
                                        (int64_t)(query + 8 * half) * head.k_len + key));
            CU_UNROLL
            for (int i = 0; i < 2; i++)
                backward_one(p[n][2 * half + i], d_s[n][2 * half + i], key + i < sees[half],
                             factor[i], a.scale, lse[half], dot[half]);
        }
        mma_add<DEPTH, DEPTH, ROWS / 16, 2>(sum, d_s, keys, 0);
    }
    const float one[2] = {1, 1};
    mma_write(f.d_q + (row_0 + 16 * warp) * f.ld_q + h * a.d, f.ld_q, sum, one, rows - 16 * warp, 0,
              d);
}

/* -- d_k, d_v -- */

template <int DEPTH, bool DROPS>
__global__ void __launch_bounds__(KV_THREADS) backward_kv_kernel(const struct mma_backward f)
{
    constexpr int HALF = DEPTH / 2; /* columns of 16 that a warp adds to */
    CU_DYNAMIC(shared);
    CU_SHARED(float, lses, [ROWS]);
    CU_SHARED(float, dots, [ROWS]);
    const mma_tile<DEPTH> keys = mma_tile_at<DEPTH, ROWS>(shared, 0);
    const mma_tile<DEPTH> values = mma_tile_at<DEPTH, ROWS>(shared, 1);
    const mma_tile<DEPTH> queries = mma_tile_at<DEPTH, ROWS>(shared, 2);
    const mma_tile<DEPTH> d_outs = mma_tile_at<DEPTH, ROWS>(shared, 3);
    const struct attention_shape &a = f.a;
    const int64_t kv = blockIdx.y, s = blockIdx.z;
    const int first = (int)blockIdx.x * ROWS, rows = a.k_len[s] - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int own = warp / 2 * 16, column = warp % 2 * HALF * 16;
    const int64_t row_0 = a.k_start[s] + first;
    mma_copy<DEPTH, ROWS, KV_THREADS>(keys, f.k + row_0 * f.ld_k + kv * a.d, f.ld_k, rows, d);
    mma_copy<DEPTH, ROWS, KV_THREADS>(values, f.v + row_0 * f.ld_v + kv * a.d, f.ld_v, rows, d);
    float sum_k[2 * HALF][4] = {}, sum_v[2 * HALF][4] = {};
    for (int64_t h = kv * a.group; h < (kv + 1) * a.group; h++) {
        const struct attention_head head = attention_head(a, s, h);
        /* the first query that sees any of these keys, down to a whole tile */
        int i0 = a.causal && first > head.ahead ? first - head.ahead : 0;
        for (i0 -= i0 % ROWS; i0 < head.q_len; i0 += ROWS) {
            const int64_t query_0 = head.q_row + i0;
            __syncthreads(); /* nobody reads the last queries any more */
            mma_copy<DEPTH, ROWS, KV_THREADS>(queries, f.q + query_0 * f.ld_q + h * a.d, f.ld_q,
                                              head.q_len - i0, d);
            mma_copy<DEPTH, ROWS, KV_THREADS>(d_outs, f.d_out + query_0 * f.ld_out + h * a.d,
                                              f.ld_out, head.q_len - i0, d);
            if (threadIdx.x < ROWS) {
                const int i = (int)threadIdx.x;
                const bool there = i0 + i < head.q_len;
                lses[i] = there ? f.saved[(query_0 + i) * a.heads + h] : 0;
                dots[i] = there ? f.dots[(s * a.heads + h) * a.q_len_max + i0 + i] : 0;
            }
            copy_wait();
            __syncthreads();
            float p[SCORE_TILES][4], d_s[SCORE_TILES][4]; /* 16 keys x 32 queries */
            mma_scores<DEPTH, ROWS / 16>(p, keys + own, queries);
            mma_scores<DEPTH, ROWS / 16>(d_s, values + own, d_outs);
            CU_UNROLL
            for (int n = 0; n < SCORE_TILES; n++)
                CU_UNROLL
            for (int i = 0; i < 4; i++) {
                const int key = first + own + lane / 4 + i / 2 * 8;
                const int place = 8 * n + lane % 4 * 2 + i % 2, query = i0 + place;
                float factor = 1;
                if (DROPS)
                    factor = dropout_one(
                        a.dropout, head.position,
                        (uint64_t)(head.first_element + (int64_t)query * head.k_len + key));
                backward_one(p[n][i], d_s[n][i], key < visible(a, head, query), factor, a.scale,
                             lses[place], dots[place]);
            }
            mma_add<DEPTH, HALF, ROWS / 16, 2>(sum_v, p, d_outs, column);
            mma_add<DEPTH, HALF, ROWS / 16, 2>(sum_k, d_s, queries, column);
        }
    }
    const float one[2] = {1, 1};
    mma_write(f.d_k + (row_0 + own) * f.ld_k + kv * a.d, f.ld_k, sum_k, one, rows - own, column, d);
    mma_write(f.d_v + (row_0 + own) * f.ld_v + kv * a.d, f.ld_v, sum_v, one, rows - own, column, d);
}

/* -- launching -- */

template <int DEPTH, bool DROPS>
static cudaError_t launch_backward(cudaStream_t stream, const struct mma_backward &f,
                                   const struct ops_attention *a)
{
    constexpr size_t bytes = mma_bytes<DEPTH>(4 * ROWS);
    const dim3 q_grid((unsigned)cu_ceil_div(a->q_len_max, ROWS), (unsigned)a->heads,
                      (unsigned)a->S);
    const dim3 kv_grid((unsigned)cu_ceil_div(a->k_len_max, ROWS), (unsigned)a->kv_heads,
                       (unsigned)a->S);
    cudaError_t error = CU_DYNAMIC_MAX((backward_q_kernel<DEPTH, DROPS>), bytes);
    if (error == cudaSuccess)
        error = CU_DYNAMIC_MAX((backward_kv_kernel<DEPTH, DROPS>), bytes);
    if (error != cudaSuccess)
        return error;
    if (a->q_len_max > 0)
        CU_LAUNCH((backward_q_kernel<DEPTH, DROPS>), q_grid, Q_THREADS, bytes, stream, f);
    if (a->k_len_max > 0)
        CU_LAUNCH((backward_kv_kernel<DEPTH, DROPS>), kv_grid, KV_THREADS, bytes, stream, f);
    return cudaGetLastError();
}

template <int DEPTH>
static cudaError_t backward_by_dropout(cudaStream_t stream, const struct mma_backward &f,
                                       const struct ops_attention *a)
{
    return f.a.drops ? launch_backward<DEPTH, true>(stream, f, a)
                     : launch_backward<DEPTH, false>(stream, f, a);
}

cudaError_t attention_mma_backward(cudaStream_t stream, bf16 *d_q, bf16 *d_k, bf16 *d_v,
                                   const bf16 *d_out, int64_t ld_out, const float *saved,
                                   const float *dots, const bf16 *q, int64_t ld_q, const bf16 *k,
                                   int64_t ld_k, const bf16 *v, int64_t ld_v,
                                   const struct ops_attention *a)
{
    const struct mma_backward f = {d_q,   d_k,  d_v,    d_out, q,    k,    v,
                                   saved, dots, ld_out, ld_q,  ld_k, ld_v, attention_shape(a)};
    if (a->head_dim <= 64)
        return backward_by_dropout<4>(stream, f, a);
    if (a->head_dim <= 128)
        return backward_by_dropout<8>(stream, f, a);
    return backward_by_dropout<16>(stream, f, a);
}
