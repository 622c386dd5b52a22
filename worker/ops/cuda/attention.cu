/* worker/ops/cuda/attention.cu - o_i = sum_j drop(p_ij) v_j,  p_i = softmax_j(scale q_i k_j), ragged,
 * grouped, causal, for any element and head size: in f32 on the CUDA cores.
 *
 * Backward   with m_ij the dropout factor, p recomputed from the saved log-sum-exp:
 *            d_v_j = sum_i m_ij p_ij d_o_i,   D_i = d_o_i o_i = sum_j p_ij d_p_ij,
 *            d_p_ij = m_ij (d_o_i v_j),       d_s_ij = p_ij (d_p_ij - D_i) scale,
 *            d_q_i = sum_j d_s_ij k_j,        d_k_j = sum_i d_s_ij q_i.
 * Tiles      the scores are never whole: 32 x 64 of them at a time, head_dim in chunks of 64. Forward and
 *            d_q: a block has 32 queries of a head and goes through the keys, with a running maximum and
 *            sum (Dao et al., "FlashAttention", 2022). d_k and d_v: a block has 32 keys of a key/value
 *            head and goes through the queries of its heads.
 * Order      tiles in order, each thread its sums over a tile in order, rows by a butterfly of 16 lanes.
 * FLOP       a score: forward 4 d, backward 14 d (scores and d_p are computed twice, for d_q and for d_k
 *            and d_v); bound by f32 arithmetic out of shared memory.
 */
#include "worker/ops/cuda/attention.cuh"

/* -- forward -- */

/* A row's softmax so far: the greatest score, and this lane's part of the sum of e^(s - most). */
struct running_row {
    float most, sum;
};

/* Scores of a tile, not scaled: 4 x 4 of q rows (`rows` of them) and k rows (`columns`). */
template <int CHUNKS, int V, typename T>
__device__ __forceinline__ void tile_scores(float (&score)[4][4], float (*a)[TILE_LD_ROWS],
                                            float (*b)[TILE_LD_COLUMNS], const T *q, int64_t ld_q,
                                            int rows, const T *k, int64_t ld_k, int columns, int d)
{
    CU_UNROLL
    for (int i = 0; i < 4; i++)
        CU_UNROLL
    for (int j = 0; j < 4; j++)
        score[i][j] = 0;
    for (int n = 0; n < CHUNKS; n++) {
        const int c = n * TILE_DEPTH, width = d - c;
        if (width <= 0)
            return;
        __syncthreads(); /* earlier products have read the tiles */
        load_turned<V, TILE_ROWS>(a, q + c, ld_q, rows, width);
        load_turned<V, TILE_COLUMNS>(b, k + c, ld_k, columns, width);
        __syncthreads();
        tile_product(score, a, b, width < TILE_DEPTH ? width : TILE_DEPTH);
    }
}

/* sum (CHUNKS chunks of columns) += kept^T x, of `count` rows of x. */
template <int CHUNKS, int V, typename T>
__device__ __forceinline__ void
tile_add(float (&sum)[CHUNKS][4][4], const float (*kept)[TILE_LD_ROWS], float (*b)[TILE_LD_COLUMNS],
         const T *x, int64_t ld, int count, int d)
{
    CU_UNROLL
    for (int n = 0; n < CHUNKS; n++) {
        const int c = n * TILE_COLUMNS, width = d - c;
        if (width <= 0)
            return;
        __syncthreads();
        load_straight<V>(b, x + c, ld, count, width);
        __syncthreads();
        tile_product(sum[n], kept, b, count < TILE_DEPTH ? count : TILE_DEPTH);
    }
}

/* y rows = sum[..][i][..] * factor[i] */
template <int CHUNKS, typename T>
__device__ __forceinline__ void tile_write(T *y, int64_t ld, const float (&sum)[CHUNKS][4][4],
                                           const float (&factor)[4], int count, int d)
{
    CU_UNROLL
    for (int n = 0; n < CHUNKS; n++)
        CU_UNROLL
    for (int i = 0; i < 4; i++)
        CU_UNROLL
    for (int j = 0; j < 4; j++) {
        const int row = tile_row() + i, c = n * TILE_COLUMNS + tile_column() + j;
        if (row < count && c < d)
            y[row * ld + c] = from_f32<T>(sum[n][i][j] * factor[i]);
    }
}

template <typename T, int V, int CHUNKS>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_forward_kernel(T *out, int64_t ld_out, float *saved, const T *q, int64_t ld_q,
                             const T *k, int64_t ld_k, const T *v, int64_t ld_v,
                             const struct attention_shape a)
{
    CU_SHARED(float, turned, [TILE_DEPTH][TILE_LD_ROWS]);
    CU_SHARED(float, other, [TILE_DEPTH][TILE_LD_COLUMNS]);
    CU_SHARED(float, kept, [TILE_COLUMNS][TILE_LD_ROWS]);
    const int64_t h = blockIdx.y, s = blockIdx.z, kv = h / a.group;
    const struct attention_head head = attention_head(a, s, h);
    const int first = (int)blockIdx.x * TILE_ROWS, rows = head.q_len - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const int last = rows < TILE_ROWS ? head.q_len - 1 : first + TILE_ROWS - 1;
    const int end = visible(a, head, last);
    const T *q_at = q + (head.q_row + first) * ld_q + h * a.d;
    struct running_row row[4];
    float sum[CHUNKS][4][4] = {}, p[4][4];
    CU_UNROLL
    for (int i = 0; i < 4; i++)
        row[i] = {-INFINITY, 0};
    for (int j0 = 0; j0 < end; j0 += TILE_COLUMNS) {
        const int64_t key = head.k_row + j0;
        tile_scores<CHUNKS, V>(p, turned, other, q_at, ld_q, rows, k + key * ld_k + kv * a.d, ld_k,
                               end - j0, d);
        CU_UNROLL
        for (int i = 0; i < 4; i++) {
            const int query = first + tile_row() + i, column = j0 + tile_column();
            const int count = visible(a, head, query);
            float most = row[i].most;
            CU_UNROLL
            for (int j = 0; j < 4; j++) {
                p[i][j] = column + j < count ? p[i][j] * a.scale : -INFINITY;
                most = fmaxf(most, p[i][j]);
            }
            most = row_max(most);
            const float base = most == -INFINITY ? 0 : most; /* no key seen yet: all are e^-inf */
            const float shrink = expf(row[i].most - base);
            row[i].most = most;
            row[i].sum *= shrink;
            CU_UNROLL
            for (int j = 0; j < 4; j++) {
                p[i][j] = expf(p[i][j] - base);
                row[i].sum += p[i][j];
            }
            CU_UNROLL
            for (int n = 0; n < CHUNKS; n++)
                CU_UNROLL
            for (int j = 0; j < 4; j++)
                sum[n][i][j] *= shrink;
            if (a.drops) {
                float factor[4];
                dropout_four(factor, a.dropout, head.position,
                             (uint64_t)(head.first_element + (int64_t)query * head.k_len + column));
                CU_UNROLL
                for (int j = 0; j < 4; j++)
                    p[i][j] *= factor[j];
            }
        }
        keep_turned(kept, p);
        tile_add<CHUNKS, V>(sum, kept, other, v + key * ld_v + kv * a.d, ld_v, end - j0, d);
    }
    float inverse[4];
    CU_UNROLL
    for (int i = 0; i < 4; i++) {
        const float total = row_sum(row[i].sum);
        const int r = tile_row() + i;
        inverse[i] = total > 0 ? 1 / total : 0;
        if (saved && r < rows && tile_column() == 0)
            saved[(head.q_row + first + r) * a.heads + h] = row[i].most + logf(total);
    }
    tile_write<CHUNKS>(out + (head.q_row + first) * ld_out + h * a.d, ld_out, sum, inverse, rows,
                       d);
}

/* f(T{}, vector length, number of chunks). Heads that do not suit vectors are odd and rare: one form. */
template <typename F>
static cudaError_t by_head(enum cuda_act act, bool vectors, int64_t head_dim, F f)
{
    if (head_dim > CUDA_HEAD_DIM_MAX)
        return cudaErrorInvalidValue;
    by_act(act, vectors, [&](auto t, auto n) {
        if constexpr (decltype(n)::value > 1) {
            if (head_dim <= TILE_COLUMNS)
                return f(t, n, length<1>{});
            if (head_dim <= 2 * TILE_COLUMNS)
                return f(t, n, length<2>{});
        }
        f(t, n, length<CUDA_HEAD_DIM_MAX / TILE_COLUMNS>{});
    });
    return cudaGetLastError();
}

static bool nothing_to_do(const struct ops_attention *a)
{
    return a->S == 0 || a->q_len_max == 0;
}

cudaError_t cuda_attention_forward(struct cuda_launch launch, act *out, int64_t ld_out,
                                   float *saved, const act *q, int64_t ld_q, const act *k,
                                   int64_t ld_k, const act *v, int64_t ld_v,
                                   const struct ops_attention *a)
{
    if (nothing_to_do(a))
        return cudaSuccess;
    if (attention_mma_fits(launch, a, out, q, k, v) && strides_fit(a, ld_out, ld_q, ld_k, ld_v))
        return attention_mma_forward(launch.stream, (bf16 *)out, ld_out, saved, (const bf16 *)q,
                                     ld_q, (const bf16 *)k, ld_k, (const bf16 *)v, ld_v, a);
    const struct attention_shape shape = attention_shape(a);
    const dim3 grid((unsigned)cu_ceil_div(a->q_len_max, TILE_ROWS), (unsigned)a->heads,
                    (unsigned)a->S);
    const bool vectors = aligned(q, k, v) && strides_fit(a, ld_q, ld_k, ld_v);
    return by_head(launch.act, vectors, a->head_dim, [&](auto t, auto n, auto chunks) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value, CHUNKS = decltype(chunks)::value;
        CU_LAUNCH((attention_forward_kernel<T, V, CHUNKS>), grid, TILE_THREADS, 0, launch.stream,
                  (T *)out, ld_out, saved, (const T *)q, ld_q, (const T *)k, ld_k, (const T *)v,
                  ld_v, shape);
    });
}

/* -- backward -- */

/* dot (S, heads, q_len_max) = D_i: a warp per query and head. */
template <typename T>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_dot_kernel(float *dot, const T *d_out, const T *out, int64_t ld_out,
                         const struct attention_shape a)
{
    const int64_t h = blockIdx.y, s = blockIdx.z;
    const int64_t i = (int64_t)blockIdx.x * (TILE_THREADS / 32) + threadIdx.x / 32;
    if (i >= a.q_len[s])
        return;
    const int64_t at = (a.q_start[s] + i) * ld_out + h * a.d;
    float sum = 0;
    for (int64_t c = threadIdx.x % 32; c < a.d; c += 32)
        sum += to_f32(d_out[at + c]) * to_f32(out[at + c]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        dot[(s * a.heads + h) * a.q_len_max + i] = sum;
}

/* Of scores not scaled and d_o v: p becomes m p, d_p becomes d_s. One query, four keys from `key` on. */
__device__ __forceinline__ void backward_four(float (&p)[4], float (&d_p)[4],
                                              const struct attention_shape &a,
                                              const struct attention_head &head, int query, int key,
                                              float lse, float dot)
{
    const int count = visible(a, head, query);
    float factor[4] = {1, 1, 1, 1};
    if (a.drops)
        dropout_four(factor, a.dropout, head.position,
                     (uint64_t)(head.first_element + (int64_t)query * head.k_len + key));
    CU_UNROLL
    for (int j = 0; j < 4; j++) {
        const float prob = key + j < count ? expf(p[j] * a.scale - lse) : 0;
        d_p[j] = prob * (factor[j] * d_p[j] - dot) * a.scale;
        p[j] = prob * factor[j];
    }
}

template <typename T, int V, int CHUNKS>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_backward_q_kernel(T *d_q, const T *d_out, int64_t ld_out, const float *saved,
                                const float *dots, const T *q, int64_t ld_q, const T *k,
                                int64_t ld_k, const T *v, int64_t ld_v,
                                const struct attention_shape a)
{
    CU_SHARED(float, turned, [TILE_DEPTH][TILE_LD_ROWS]);
    CU_SHARED(float, other, [TILE_DEPTH][TILE_LD_COLUMNS]);
    CU_SHARED(float, kept, [TILE_COLUMNS][TILE_LD_ROWS]);
    const int64_t h = blockIdx.y, s = blockIdx.z, kv = h / a.group;
    const struct attention_head head = attention_head(a, s, h);
    const int first = (int)blockIdx.x * TILE_ROWS, rows = head.q_len - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const int last = rows < TILE_ROWS ? head.q_len - 1 : first + TILE_ROWS - 1;
    const int end = visible(a, head, last);
    const T *q_at = q + (head.q_row + first) * ld_q + h * a.d;
    const T *d_out_at = d_out + (head.q_row + first) * ld_out + h * a.d;
    float lse[4] = {}, dot[4] = {}, sum[CHUNKS][4][4] = {}, p[4][4], d_s[4][4];
    CU_UNROLL
    for (int i = 0; i < 4; i++)
        if (tile_row() + i < rows) {
            const int64_t query = first + tile_row() + i;
            lse[i] = saved[(head.q_row + query) * a.heads + h];
            dot[i] = dots[(s * a.heads + h) * a.q_len_max + query];
        }
    for (int j0 = 0; j0 < end; j0 += TILE_COLUMNS) {
        const T *k_at = k + (head.k_row + j0) * ld_k + kv * a.d;
        const T *v_at = v + (head.k_row + j0) * ld_v + kv * a.d;
        tile_scores<CHUNKS, V>(p, turned, other, q_at, ld_q, rows, k_at, ld_k, end - j0, d);
        tile_scores<CHUNKS, V>(d_s, turned, other, d_out_at, ld_out, rows, v_at, ld_v, end - j0, d);
        CU_UNROLL
        for (int i = 0; i < 4; i++)
            backward_four(p[i], d_s[i], a, head, first + tile_row() + i, j0 + tile_column(), lse[i],
                          dot[i]);
        keep_turned(kept, d_s);
        tile_add<CHUNKS, V>(sum, kept, other, k_at, ld_k, end - j0, d);
    }
    const float one[4] = {1, 1, 1, 1};
    tile_write<CHUNKS>(d_q + (head.q_row + first) * ld_q + h * a.d, ld_q, sum, one, rows, d);
}

/* Rows of the tiles are keys here, columns queries. */
template <typename T, int V, int CHUNKS>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_backward_kv_kernel(T *d_k, T *d_v, const T *d_out, int64_t ld_out, const float *saved,
                                 const float *dots, const T *q, int64_t ld_q, const T *k,
                                 int64_t ld_k, const T *v, int64_t ld_v,
                                 const struct attention_shape a)
{
    CU_SHARED(float, turned, [TILE_DEPTH][TILE_LD_ROWS]);
    CU_SHARED(float, other, [TILE_DEPTH][TILE_LD_COLUMNS]);
    CU_SHARED(float, kept, [TILE_COLUMNS][TILE_LD_ROWS]);
    const int64_t kv = blockIdx.y, s = blockIdx.z;
    const int first = (int)blockIdx.x * TILE_ROWS, rows = a.k_len[s] - first, d = (int)a.d;
    if (rows <= 0)
        return;
    const T *k_at = k + (a.k_start[s] + first) * ld_k + kv * a.d;
    const T *v_at = v + (a.k_start[s] + first) * ld_v + kv * a.d;
    float sum_k[CHUNKS][4][4] = {}, sum_v[CHUNKS][4][4] = {}, p[4][4], d_s[4][4];
    for (int64_t h = kv * a.group; h < (kv + 1) * a.group; h++) {
        const struct attention_head head = attention_head(a, s, h);
        /* the first query that sees any of these keys, down to a whole tile */
        int i0 = a.causal && first > head.ahead ? first - head.ahead : 0;
        for (i0 -= i0 % TILE_COLUMNS; i0 < head.q_len; i0 += TILE_COLUMNS) {
            const int queries = head.q_len - i0;
            const T *q_at = q + (head.q_row + i0) * ld_q + h * a.d;
            const T *d_out_at = d_out + (head.q_row + i0) * ld_out + h * a.d;
            tile_scores<CHUNKS, V>(p, turned, other, k_at, ld_k, rows, q_at, ld_q, queries, d);
            tile_scores<CHUNKS, V>(d_s, turned, other, v_at, ld_v, rows, d_out_at, ld_out, queries,
                                   d);
            CU_UNROLL
            for (int j = 0; j < 4; j++) {
                const int query = i0 + tile_column() + j;
                float p_j[4] = {p[0][j], p[1][j], p[2][j], p[3][j]}, lse = 0, dot = 0;
                float d_s_j[4] = {d_s[0][j], d_s[1][j], d_s[2][j], d_s[3][j]};
                if (query < head.q_len) {
                    lse = saved[(head.q_row + query) * a.heads + h];
                    dot = dots[(s * a.heads + h) * a.q_len_max + query];
                }
                backward_four(p_j, d_s_j, a, head, query, first + tile_row(), lse, dot);
                CU_UNROLL
                for (int i = 0; i < 4; i++) {
                    p[i][j] = p_j[i];
                    d_s[i][j] = d_s_j[i];
                }
            }
            keep_turned(kept, d_s);
            tile_add<CHUNKS, V>(sum_k, kept, other, q_at, ld_q, queries, d);
            __syncthreads(); /* `kept` has been read */
            keep_turned(kept, p);
            tile_add<CHUNKS, V>(sum_v, kept, other, d_out_at, ld_out, queries, d);
        }
    }
    const float one[4] = {1, 1, 1, 1};
    tile_write<CHUNKS>(d_k + (a.k_start[s] + first) * ld_k + kv * a.d, ld_k, sum_k, one, rows, d);
    tile_write<CHUNKS>(d_v + (a.k_start[s] + first) * ld_v + kv * a.d, ld_v, sum_v, one, rows, d);
}

size_t cuda_attention_backward_scratch(const struct ops_attention *a)
{
    return (size_t)(a->S * a->heads * a->q_len_max + 1) * sizeof(float);
}

cudaError_t cuda_attention_backward(struct cuda_launch launch, act *d_q, act *d_k, act *d_v,
                                    const act *d_out, const act *out, int64_t ld_out,
                                    const float *saved, const act *q, int64_t ld_q, const act *k,
                                    int64_t ld_k, const act *v, int64_t ld_v,
                                    const struct ops_attention *a, void *scratch)
{
    if (a->S == 0)
        return cudaSuccess;
    float *dots = (float *)scratch;
    const struct attention_shape shape = attention_shape(a);
    const unsigned heads = (unsigned)a->heads, S = (unsigned)a->S;
    const dim3 dot_grid((unsigned)cu_ceil_div(a->q_len_max, TILE_THREADS / 32), heads, S);
    const dim3 q_grid((unsigned)cu_ceil_div(a->q_len_max, TILE_ROWS), heads, S);
    const dim3 kv_grid((unsigned)cu_ceil_div(a->k_len_max, TILE_ROWS), (unsigned)a->kv_heads, S);
    if (a->q_len_max > 0)
        by_act(launch.act, false, [&](auto t, auto) {
            using T = decltype(t);
            CU_LAUNCH((attention_dot_kernel<T>), dot_grid, TILE_THREADS, 0, launch.stream, dots,
                      (const T *)d_out, (const T *)out, ld_out, shape);
        });
    const bool vectors = aligned(d_out, q, k, v) && strides_fit(a, ld_out, ld_q, ld_k, ld_v);
    if (vectors && attention_mma_fits(launch, a, d_q, d_k, d_v))
        return attention_mma_backward(launch.stream, (bf16 *)d_q, (bf16 *)d_k, (bf16 *)d_v,
                                      (const bf16 *)d_out, ld_out, saved, dots, (const bf16 *)q,
                                      ld_q, (const bf16 *)k, ld_k, (const bf16 *)v, ld_v, a);
    return by_head(launch.act, vectors, a->head_dim, [&](auto t, auto n, auto chunks) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value, CHUNKS = decltype(chunks)::value;
        if (a->q_len_max > 0)
            CU_LAUNCH((attention_backward_q_kernel<T, V, CHUNKS>), q_grid, TILE_THREADS, 0,
                      launch.stream, (T *)d_q, (const T *)d_out, ld_out, saved, dots, (const T *)q,
                      ld_q, (const T *)k, ld_k, (const T *)v, ld_v, shape);
        if (a->k_len_max > 0)
            CU_LAUNCH((attention_backward_kv_kernel<T, V, CHUNKS>), kv_grid, TILE_THREADS, 0,
                      launch.stream, (T *)d_k, (T *)d_v, (const T *)d_out, ld_out, saved, dots,
                      (const T *)q, ld_q, (const T *)k, ld_k, (const T *)v, ld_v, shape);
    });
}

/* -- probabilities, for pictures -- */

/* A block per query; each thread its own keys, once for the sums of a head and once for the result. */
template <typename T>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_probs_kernel(float *probs, const T *q, int64_t ld_q, const T *k, int64_t ld_k,
                           int64_t k_len_max, const struct attention_shape a)
{
    CU_SHARED(float, most_of, [TILE_THREADS / 32]);
    const int64_t i = blockIdx.x, s = blockIdx.y;
    const struct attention_head head = attention_head(a, s, 0);
    const int count = visible(a, head, (int)i);
    float *row = probs + (s * a.q_len_max + i) * k_len_max;
    for (int64_t j = threadIdx.x; j < k_len_max; j += TILE_THREADS)
        row[j] = 0;
    if (count == 0)
        return;
    for (int64_t h = 0; h < a.heads; h++) {
        const T *q_i = q + (head.q_row + i) * ld_q + h * a.d;
        const T *k_0 = k + head.k_row * ld_k + h / a.group * a.d;
        auto score = [&](int64_t j) {
            float dot = 0;
            for (int64_t c = 0; c < a.d; c++)
                dot = fmaf(to_f32(q_i[c]), to_f32(k_0[j * ld_k + c]), dot);
            return dot * a.scale;
        };
        float most = -INFINITY, sum = 0;
        for (int64_t j = threadIdx.x; j < count; j += TILE_THREADS)
            most = fmaxf(most, score(j));
        most = warp_max(most);
        __syncthreads();
        if (threadIdx.x % 32 == 0)
            most_of[threadIdx.x / 32] = most;
        __syncthreads();
        CU_UNROLL
        for (int w = 0; w < TILE_THREADS / 32; w++)
            most = fmaxf(most, most_of[w]);
        for (int64_t j = threadIdx.x; j < count; j += TILE_THREADS)
            sum += expf(score(j) - most);
        sum = block_sum<TILE_THREADS>(sum);
        for (int64_t j = threadIdx.x; j < count; j += TILE_THREADS)
            row[j] += expf(score(j) - most) / sum / (float)a.heads;
    }
}

cudaError_t cuda_attention_probs(struct cuda_launch launch, float *probs, const act *q,
                                 int64_t ld_q, const act *k, int64_t ld_k,
                                 const struct ops_attention *a)
{
    if (nothing_to_do(a) || a->k_len_max == 0)
        return cudaSuccess;
    const struct attention_shape shape = attention_shape(a);
    const dim3 grid((unsigned)a->q_len_max, (unsigned)a->S);
    by_act(launch.act, false, [&](auto t, auto) {
        using T = decltype(t);
        CU_LAUNCH((attention_probs_kernel<T>), grid, TILE_THREADS, 0, launch.stream, probs,
                  (const T *)q, ld_q, (const T *)k, ld_k, a->k_len_max, shape);
    });
    return cudaGetLastError();
}
