/* worker/ops/cuda/attention_mma.cu - attention's forward pass on tensor cores: bf16 in and out, scores and
 * sums in f32, no dropout (attention.cu has the formula). It is for the vision tower, 729 tokens of heads of
 * 72, and serves every other forward pass that fits.
 *
 * Tiles      a block of 4 warps has 64 queries of a head, a warp 16 of them with their scores, probabilities
 *            and sums in registers; keys and values pass through shared memory 64 at a time, values while
 *            the scores are computed, the next keys during the softmax and the second product. The scores
 *            are never stored (Dao, "FlashAttention-2", 2023).
 * Heads      head_dim is padded with zeros to a multiple of 16; rows in shared memory are 16 bytes longer
 *            than that, so that the 8 rows of a matrix lie in different banks.
 * Order      tiles in order; a tensor-core product sums 16 at a time; rows by a butterfly of 4 lanes.
 * FLOP       a score: 4 head_dim. Bound by tensor cores and by reading shared memory for them.
 */
#include "worker/ops/cuda/attention.cuh"
#include "worker/ops/cuda/mma.cuh"

enum {
    WARPS = 4,
    THREADS = 32 * WARPS,
    QUERIES = 16 * WARPS,
    KEYS = 64,
    PIECE = 8 /* of 16 bytes */
};

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

/* Starts to copy `count` rows of `d` columns; zeros beyond, up to 64 rows and 16 DEPTH columns. */
template <int DEPTH, int LD>
__device__ __forceinline__ void copy_rows(bf16 (*tile)[LD], const bf16 *x, int64_t ld, int count,
                                          int d)
{
    constexpr int PIECES = 16 * DEPTH / PIECE;
    CU_UNROLL
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
        const int task = i * THREADS + (int)threadIdx.x;
        const int r = task / PIECES, c = task % PIECES * PIECE;
        const bool there = r < count && c < d;
        copy_async(&tile[r][c], there ? x + r * ld + c : x, there);
    }
    copy_commit();
}

/* score (16 queries x KEYS) of a warp */
template <int DEPTH, int LD>
__device__ __forceinline__ void scores(float (&score)[KEYS / 8][4],
                                       const uint32_t (&query)[DEPTH][4], const bf16 (*keys)[LD])
{
    const int lane = (int)threadIdx.x % 32;
    const int key = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
    CU_UNROLL
    for (int n = 0; n < KEYS / 8; n++)
        CU_UNROLL
    for (int i = 0; i < 4; i++)
        score[n][i] = 0;
    CU_UNROLL
    for (int c = 0; c < DEPTH; c++)
        CU_UNROLL
    for (int n = 0; n < KEYS / 16; n++) {
        uint32_t b[4];
        load_matrices(b, &keys[16 * n + key][16 * c + column]);
        multiply_add(score[2 * n], query[c], b[0], b[1]);
        multiply_add(score[2 * n + 1], query[c], b[2], b[3]);
    }
}

/* sum (16 queries x head) += p v */
template <int DEPTH, int LD>
__device__ __forceinline__ void add_values(float (&sum)[2 * DEPTH][4],
                                           const float (&p)[KEYS / 8][4], const bf16 (*values)[LD])
{
    const int lane = (int)threadIdx.x % 32;
    const int key = lane % 16, column = lane / 16 * 8;
    CU_UNROLL
    for (int n = 0; n < KEYS / 16; n++) {
        const uint32_t a[4] = {pack_bf16(p[2 * n][0], p[2 * n][1]),
                               pack_bf16(p[2 * n][2], p[2 * n][3]),
                               pack_bf16(p[2 * n + 1][0], p[2 * n + 1][1]),
                               pack_bf16(p[2 * n + 1][2], p[2 * n + 1][3])};
        CU_UNROLL
        for (int c = 0; c < DEPTH; c++) {
            uint32_t b[4];
            load_matrices_turned(b, &values[16 * n + key][16 * c + column]);
            multiply_add(sum[2 * c], a, b[0], b[1]);
            multiply_add(sum[2 * c + 1], a, b[2], b[3]);
        }
    }
}

/* A lane has rows g and g + 8 of its warp's queries: the greatest score, and its part of the sum. */
struct two_rows {
    float most[2], sum[2];
};

/* Scores become e^(scale (score - most)); what was summed before shrinks with a new `most`. count: keys that
 * each row sees of this tile. `base2` is scale / ln 2. */
template <int TILES>
__device__ __forceinline__ void softmax(float (&score)[KEYS / 8][4], float (&sum)[TILES][4],
                                        struct two_rows &rows, const int (&count)[2], float base2)
{
    const int t = (int)threadIdx.x % 4;
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        float most = rows.most[half];
        if (count[half] < KEYS) {
            CU_UNROLL
            for (int n = 0; n < KEYS / 8; n++)
                CU_UNROLL
            for (int i = 0; i < 2; i++)
                if (8 * n + 2 * t + i >= count[half])
                    score[n][2 * half + i] = -INFINITY;
        }
        CU_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
        const float base = most == -INFINITY ? 0 : most * base2; /* -inf: no key seen yet */
        const float shrink = exp2_fast(rows.most[half] * base2 - base);
        rows.most[half] = most;
        rows.sum[half] *= shrink;
        CU_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
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

template <int DEPTH>
__global__ void __launch_bounds__(THREADS) attention_mma_kernel(const struct mma_forward f)
{
    constexpr int LD = 16 * DEPTH + PIECE;
    CU_SHARED(bf16, keys, [KEYS][LD]);
    CU_SHARED(bf16, values, [KEYS][LD]);
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

    uint32_t query[DEPTH][4];
    copy_rows<DEPTH>(values, f.q + (head.q_row + first) * f.ld_q + h * a.d, f.ld_q, rows, d);
    copy_wait();
    __syncthreads();
    CU_UNROLL
    for (int c = 0; c < DEPTH; c++)
        load_matrices(query[c], &values[16 * warp + lane % 16][16 * c + lane / 16 * 8]);
    copy_rows<DEPTH>(keys, k_at, f.ld_k, end, d);

    const int row = 16 * warp + lane / 4, column = lane % 4 * 2;
    const int sees[2] = {visible(a, head, first + row), visible(a, head, first + row + 8)};
    const float base2 = a.scale * 1.44269504088896341f;
    struct two_rows state = {{-INFINITY, -INFINITY}, {0, 0}};
    float sum[2 * DEPTH][4] = {}, p[KEYS / 8][4];
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        copy_wait();
        __syncthreads(); /* the keys are here, and nobody reads the last values any more */
        copy_rows<DEPTH>(values, v_at + j0 * f.ld_v, f.ld_v, end - j0, d);
        scores<DEPTH>(p, query, keys);
        copy_wait();
        __syncthreads(); /* the values are here, and nobody reads these keys any more */
        if (j0 + KEYS < end)
            copy_rows<DEPTH>(keys, k_at + (j0 + KEYS) * f.ld_k, f.ld_k, end - j0 - KEYS, d);
        const int count[2] = {sees[0] - j0, sees[1] - j0};
        softmax(p, sum, state, count, base2);
        add_values<DEPTH>(sum, p, values);
    }

    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        float total = state.sum[half];
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
        const int r = row + 8 * half;
        if (r >= rows)
            continue;
        const float inverse = total > 0 ? 1 / total : 0;
        bf16 *out = f.out + (head.q_row + first + r) * f.ld_out + h * a.d;
        CU_UNROLL
        for (int n = 0; n < 2 * DEPTH; n++)
            if (8 * n < d)
                *(uint32_t *)(out + 8 * n + column) =
                    pack_bf16(sum[n][2 * half] * inverse, sum[n][2 * half + 1] * inverse);
        if (f.saved && column == 0)
            f.saved[(head.q_row + first + r) * a.heads + h] =
                state.most[half] * a.scale + logf(total);
    }
}

bool attention_mma_fits(struct cuda_launch launch, const act *out, int64_t ld_out, const act *q,
                        int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                        const struct ops_attention *a)
{
    return launch.act == CUDA_ACT_BF16 && a->head_dim <= 128 && aligned(out, q, k, v) &&
           strides_fit(a, ld_out, ld_q, ld_k, ld_v) && dropout_is_off(a->dropout);
}

cudaError_t attention_mma_forward(cudaStream_t stream, bf16 *out, int64_t ld_out, float *saved,
                                  const bf16 *q, int64_t ld_q, const bf16 *k, int64_t ld_k,
                                  const bf16 *v, int64_t ld_v, const struct ops_attention *a)
{
    const struct mma_forward f = {out,    saved, q,    k,    v,
                                  ld_out, ld_q,  ld_k, ld_v, attention_shape(a)};
    const dim3 grid((unsigned)cu_ceil_div(a->q_len_max, QUERIES), (unsigned)a->heads,
                    (unsigned)a->S);
    if (a->head_dim <= 64)
        CU_LAUNCH((attention_mma_kernel<4>), grid, THREADS, 0, stream, f);
    else if (a->head_dim <= 80)
        CU_LAUNCH((attention_mma_kernel<5>), grid, THREADS, 0, stream, f);
    else
        CU_LAUNCH((attention_mma_kernel<8>), grid, THREADS, 0, stream, f);
    return cudaGetLastError();
}
