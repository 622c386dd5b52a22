/* worker/ops/cuda/attention_mma.cu - attention's forward pass on tensor cores: bf16 in and out, scores and
 * sums in f32 (attention.cu has the formula). For the vision tower (729 tokens, heads of 72), the Q-Former
 * (32 queries over as many tokens, heads of 256, dropout) and the ragged causal LLM.
 *
 * Tiles      a warp has 16 queries of a head with their scores, probabilities and sums in registers; keys and
 *            values pass through shared memory 64 or 32 at a time, values while the scores are computed, the next
 *            keys during the softmax and the second product. The scores are never stored (Dao,
 *            "FlashAttention-2", 2023). Queries are in registers where heads are 80 at most, else in shared
 *            memory. 4 warps to a block, 2 where heads are larger than 128.
 * Order      tiles in order; a tensor-core product sums 16 at a time; rows by a butterfly of 4 lanes.
 * FLOP       a score: 4 head_dim. Bound by tensor cores and by reading shared memory for them.
 */
#include "worker/ops/cuda/attention_mma.cuh"

namespace
{
struct mma_forward {
    bf16 *out;
    float *saved;
    const bf16 *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
    struct attention_shape a;
};
} // namespace

/* A lane has rows g and g + 8 of its warp's queries: the greatest score, and its part of the sum. */
struct two_rows {
    float most[2], sum[2];
};

/* Scores become e^(scale (score - most)); what was summed before shrinks with a new `most`. count: keys that
 * each row sees of this tile. `base2` is scale / ln 2. */
template <int KEY_TILES, int TILES>
__device__ __forceinline__ void softmax(float (&score)[KEY_TILES][4], float (&sum)[TILES][4],
                                        struct two_rows &rows, const int (&count)[2], float base2)
{
    const int t = (int)threadIdx.x % 4;
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        float most = rows.most[half];
        if (count[half] < 8 * KEY_TILES) {
            CU_UNROLL
            for (int n = 0; n < KEY_TILES; n++)
                CU_UNROLL
            for (int i = 0; i < 2; i++)
                if (8 * n + 2 * t + i >= count[half])
                    score[n][2 * half + i] = -INFINITY;
        }
        CU_UNROLL
        for (int n = 0; n < KEY_TILES; n++)
            most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
        const float base = most == -INFINITY ? 0 : most * base2; /* -inf: no key seen yet */
        const float shrink = exp2_fast(rows.most[half] * base2 - base);
        rows.most[half] = most;
        rows.sum[half] *= shrink;
        CU_UNROLL
        for (int n = 0; n < KEY_TILES; n++)
            CU_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            score[n][i] = exp2_fast(fmaf(score[n][i], base2, -base));
            rows.sum[half] += score[n][i];
        }
        CU_UNROLL
        for (int n = 0; n < TILES; n++) {
            sum[n][2 * half] *= shrink;
            sum[n][2 * half + 1] *= shrink;
        }
    }
}

/* p of queries `query` and query + 8, keys from j0 on, times their dropout factors */
template <int KEY_TILES>
__device__ __forceinline__ void drop(float (&p)[KEY_TILES][4], const struct attention_shape &a,
                                     const struct attention_head &head, int query, int j0)
{
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        const int64_t row = head.first_element + (int64_t)(query + 8 * half) * head.k_len;
        CU_UNROLL
        for (int n = 0; n < KEY_TILES; n++) {
            const int key = j0 + 8 * n + (int)threadIdx.x % 4 * 2;
            float factor[2];
            dropout_pair(factor, a.dropout, head.position, (uint64_t)(row + key));
            p[n][2 * half] *= factor[0];
            p[n][2 * half + 1] *= factor[1];
        }
    }
}

/* Queries in registers, where there is room for them, else in shared memory. */
template <int DEPTH> constexpr bool HELD = DEPTH <= 5;
template <int DEPTH> constexpr int FORWARD_WARPS = DEPTH <= 8 ? 4 : 2;
template <int DEPTH> constexpr int FORWARD_KEYS = DEPTH <= 8 ? 64 : 32;
template <int DEPTH> constexpr size_t forward_bytes()
{
    return mma_bytes<DEPTH>(2 * FORWARD_KEYS<DEPTH> +
                            (HELD<DEPTH> ? 0 : 16 * FORWARD_WARPS<DEPTH>));
}

template <int DEPTH, bool DROPS>
__global__ void __launch_bounds__(32 * FORWARD_WARPS<DEPTH>)
    attention_mma_kernel(const struct mma_forward f)
{
    constexpr int WARPS = FORWARD_WARPS<DEPTH>, THREADS = 32 * WARPS, QUERIES = 16 * WARPS;
    constexpr int KEYS = FORWARD_KEYS<DEPTH>, KEY_TILES = KEYS / 8;
    CU_DYNAMIC(shared);
    const mma_tile<DEPTH> keys = mma_tile_at<DEPTH, KEYS>(shared, 0);
    const mma_tile<DEPTH> values = mma_tile_at<DEPTH, KEYS>(shared, 1);
    const mma_tile<DEPTH> queries = HELD<DEPTH> ? values : mma_tile_at<DEPTH, KEYS>(shared, 2);
    const struct attention_shape &a = f.a;
    const int64_t h = blockIdx.y, s = blockIdx.z, kv = h / a.group;
    const struct attention_head head = attention_head(a, s, h);
    const int first = (int)blockIdx.x * QUERIES, rows = head.q_len - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int end = visible(a, head, rows < QUERIES ? head.q_len - 1 : first + QUERIES - 1);
    const bf16 *k_at = f.k + head.k_row * f.ld_k + kv * a.d;
    const bf16 *v_at = f.v + head.k_row * f.ld_v + kv * a.d;

    uint32_t query[HELD<DEPTH> ? DEPTH : 1][4];
    mma_copy<DEPTH, QUERIES, THREADS>(queries, f.q + (head.q_row + first) * f.ld_q + h * a.d,
                                      f.ld_q, rows, d);
    if (HELD<DEPTH>) {
        copy_wait();
        __syncthreads();
        CU_UNROLL
        for (int c = 0; c < DEPTH; c++)
            mma_rows<DEPTH>(query[HELD<DEPTH> ? c : 0], queries + 16 * warp, 16 * c);
    }
    mma_copy<DEPTH, KEYS, THREADS>(keys, k_at, f.ld_k, end, d);

    const int row = first + 16 * warp + lane / 4;
    const int sees[2] = {visible(a, head, row), visible(a, head, row + 8)};
    const float base2 = a.scale * 1.44269504088896341f;
    struct two_rows state = {{-INFINITY, -INFINITY}, {0, 0}};
    float sum[2 * DEPTH][4] = {}, p[KEY_TILES][4];
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        copy_wait();
        __syncthreads(); /* the keys are here, and nobody reads the last values any more */
        mma_copy<DEPTH, KEYS, THREADS>(values, v_at + j0 * f.ld_v, f.ld_v, end - j0, d);
        if (HELD<DEPTH>) {
            CU_UNROLL
            for (int n = 0; n < KEY_TILES; n++)
                CU_UNROLL
            for (int i = 0; i < 4; i++)
                p[n][i] = 0;
            CU_UNROLL
            for (int c = 0; c < DEPTH; c++)
                mma_step<DEPTH, KEYS / 16>(p, query[HELD<DEPTH> ? c : 0], keys, 16 * c);
        } else {
            mma_scores<DEPTH, KEYS / 16>(p, queries + 16 * warp, keys);
        }
        copy_wait();
        __syncthreads(); /* the values are here, and nobody reads these keys any more */
        if (j0 + KEYS < end)
            mma_copy<DEPTH, KEYS, THREADS>(keys, k_at + (j0 + KEYS) * f.ld_k, f.ld_k,
                                           end - j0 - KEYS, d);
        const int count[2] = {sees[0] - j0, sees[1] - j0};
        softmax(p, sum, state, count, base2);
        if (DROPS)
            drop(p, a, head, row, j0);
        mma_add<DEPTH, DEPTH, KEYS / 16, 1>(sum, p, values, 0);
    }

    float inverse[2];
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        float total = state.sum[half];
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
        inverse[half] = total > 0 ? 1 / total : 0;
        const int query_row = row + 8 * half;
        if (f.saved && query_row < head.q_len && lane % 4 == 0)
            f.saved[(head.q_row + query_row) * a.heads + h] =
                state.most[half] * a.scale + logf(total);
    }
    const int64_t warp_row = head.q_row + first + 16 * warp;
    mma_write(f.out + warp_row * f.ld_out + h * a.d, f.ld_out, sum, inverse, rows - 16 * warp, 0,
              d);
}

template <int DEPTH, bool DROPS>
static cudaError_t launch_forward(cudaStream_t stream, const struct mma_forward &f,
                                  const struct ops_attention *a)
{
    constexpr int WARPS = FORWARD_WARPS<DEPTH>;
    const dim3 grid((unsigned)cu_ceil_div(a->q_len_max, 16 * WARPS), (unsigned)a->heads,
                    (unsigned)a->S);
    const cudaError_t error =
        CU_DYNAMIC_MAX((attention_mma_kernel<DEPTH, DROPS>), forward_bytes<DEPTH>());
    if (error != cudaSuccess)
        return error;
    CU_LAUNCH((attention_mma_kernel<DEPTH, DROPS>), grid, 32 * WARPS, forward_bytes<DEPTH>(),
              stream, f);
    return cudaGetLastError();
}

template <int DEPTH>
static cudaError_t forward_by_dropout(cudaStream_t stream, const struct mma_forward &f,
                                      const struct ops_attention *a)
{
    return f.a.drops ? launch_forward<DEPTH, true>(stream, f, a)
                     : launch_forward<DEPTH, false>(stream, f, a);
}

cudaError_t attention_mma_forward(cudaStream_t stream, bf16 *out, int64_t ld_out, float *saved,
                                  const bf16 *q, int64_t ld_q, const bf16 *k, int64_t ld_k,
                                  const bf16 *v, int64_t ld_v, const struct ops_attention *a)
{
    const struct mma_forward f = {out,    saved, q,    k,    v,
                                  ld_out, ld_q,  ld_k, ld_v, attention_shape(a)};
    if (a->head_dim <= 64)
        return forward_by_dropout<4>(stream, f, a);
    if (a->head_dim <= 80)
        return forward_by_dropout<5>(stream, f, a);
    if (a->head_dim <= 128)
        return forward_by_dropout<8>(stream, f, a);
    return forward_by_dropout<16>(stream, f, a);
}
