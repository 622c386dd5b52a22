/* worker/ops/cuda/attention.cuh - what the attention kernels share: where a head's rows lie, what they
 * see, and products of small tiles in shared memory. */
#pragma once

#include "worker/ops/cuda/dropout.cuh"

/* struct ops_attention as a kernel's argument. */
struct attention_shape {
    int64_t heads, group, d; /* group: query heads to a key/value head */
    const int32_t *q_start, *q_len, *k_start, *k_len;
    int64_t q_len_max;
    float scale;
    bool causal, drops;
    struct dropout_site dropout;
};

static inline struct attention_shape attention_shape(const struct ops_attention *a)
{
    struct attention_shape shape = {};
    shape.heads = a->heads;
    shape.group = a->heads / a->kv_heads;
    shape.d = a->head_dim;
    shape.q_start = a->q_start;
    shape.q_len = a->q_len;
    shape.k_start = a->k_start;
    shape.k_len = a->k_len;
    shape.q_len_max = a->q_len_max;
    shape.scale = a->scale;
    shape.causal = a->causal;
    shape.drops = !dropout_is_off(a->dropout);
    shape.dropout = dropout_site(a->dropout);
    return shape;
}

/* One head of one sequence. */
struct attention_head {
    int64_t q_row, k_row;
    int q_len, k_len, ahead; /* ahead: keys before the first query's own, where causal */
    int64_t first_element;   /* of dropout */
    uint32_t position;
};

__device__ __forceinline__ struct attention_head attention_head(const struct attention_shape &a,
                                                                int64_t s, int64_t h)
{
    struct attention_head head;
    head.q_row = a.q_start[s];
    head.k_row = a.k_start[s];
    head.q_len = a.q_len[s];
    head.k_len = a.k_len[s];
    head.ahead = head.k_len - head.q_len;
    head.first_element = h * head.q_len * head.k_len;
    head.position = a.drops ? (uint32_t)a.dropout.positions[s] : 0;
    return head;
}

/* Keys that query i sees: the first so many. */
__device__ __forceinline__ int visible(const struct attention_shape &a,
                                       const struct attention_head &head, int i)
{
    const int count = a.causal ? i + 1 + head.ahead : head.k_len;
    return i >= head.q_len || count < 0 ? 0 : count;
}

/* Heads begin at multiples of 16 bytes? */
template <typename... N> static inline bool strides_fit(const struct ops_attention *a, N... strides)
{
    return a->head_dim % 8 == 0 && ((strides % 8 == 0) && ...);
}

/* -- tiles: ROWS x COLUMNS results by 128 threads, 4 x 4 each; DEPTH deep -- */

enum {
    TILE_ROWS = 32,
    TILE_COLUMNS = 64,
    TILE_DEPTH = 64,
    TILE_THREADS = 128,
    TILE_LD_ROWS = TILE_ROWS + 4, /* padded: 16-byte rows, and few bank conflicts */
    TILE_LD_COLUMNS = TILE_COLUMNS + 4
};

/* The 4 x 4 results of a thread start at these. 16 lanes in a row share the rows. */
__device__ __forceinline__ int tile_row()
{
    return (int)threadIdx.x / 16 * 4;
}
__device__ __forceinline__ int tile_column()
{
    return (int)threadIdx.x % 16 * 4;
}

/* sum += a^T b,  a (depth, TILE_ROWS), b (depth, TILE_COLUMNS) */
__device__ __forceinline__ void tile_product(float (&sum)[4][4], const float (*a)[TILE_LD_ROWS],
                                             const float (*b)[TILE_LD_COLUMNS], int depth)
{
    const int row = tile_row(), column = tile_column();
    CU_UNROLL_BY(8)
    for (int k = 0; k < depth; k++) {
        float x[4], y[4];
        load<4>(x, &a[k][row]);
        load<4>(y, &b[k][column]);
        CU_UNROLL
        for (int i = 0; i < 4; i++)
            CU_UNROLL
        for (int j = 0; j < 4; j++)
            sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
}

/* tile[c][r] = x[(first + r) ld + c] for `count` rows and `width` columns; zero beyond, up to N rows
 * and TILE_DEPTH columns rounded up to V. Lanes take rows, so that they write side by side. */
template <int V, int N, int LD, typename T>
__device__ __forceinline__ void load_turned(float (*tile)[LD], const T *x, int64_t ld, int count,
                                            int width)
{
    CU_UNROLL_BY(2)
    for (int task = (int)threadIdx.x; task < N * (TILE_DEPTH / V); task += TILE_THREADS) {
        const int r = task % N, c = task / N * V;
        float value[V] = {};
        if (r < count && c < width)
            load<V>(value, x + r * ld + c);
        CU_UNROLL
        for (int j = 0; j < V; j++)
            tile[c + j][r] = value[j];
    }
}

/* tile[r][c] = the same, for TILE_DEPTH rows and TILE_COLUMNS columns. */
template <int V, typename T>
__device__ __forceinline__ void load_straight(float (*tile)[TILE_LD_COLUMNS], const T *x,
                                              int64_t ld, int count, int width)
{
    constexpr int PIECES = TILE_COLUMNS / V;
    CU_UNROLL_BY(2)
    for (int task = (int)threadIdx.x; task < TILE_DEPTH * PIECES; task += TILE_THREADS) {
        const int r = task / PIECES, c = task % PIECES * V;
        float value[V] = {};
        if (r < count && c < width)
            load<V>(value, x + r * ld + c);
        store_f32<V>(&tile[r][c], value);
    }
}

/* tile[column][row] = a thread's 4 x 4 values: what a product over columns takes as its a. */
__device__ __forceinline__ void keep_turned(float (*tile)[TILE_LD_ROWS], const float (&value)[4][4])
{
    CU_UNROLL
    for (int j = 0; j < 4; j++) {
        const float column[4] = {value[0][j], value[1][j], value[2][j], value[3][j]};
        store<4>(&tile[tile_column() + j][tile_row()], column);
    }
}

/* Over the 16 lanes that share a tile's rows. */
__device__ __forceinline__ float row_sum(float x)
{
    CU_UNROLL
    for (int lanes = 8; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
    return x;
}
__device__ __forceinline__ float row_max(float x)
{
    CU_UNROLL
    for (int lanes = 8; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, lanes));
    return x;
}

/* -- on tensor cores (attention_mma.cu, attention_mma_backward.cu): bf16, heads at 16-byte boundaries -- */

/* Do these suit? */
template <typename... P>
static inline bool attention_mma_fits(struct cuda_launch launch, const struct ops_attention *a,
                                      P... pointers)
{
    return launch.act == CUDA_ACT_BF16 && a->head_dim <= CUDA_HEAD_DIM_MAX && aligned(pointers...);
}
cudaError_t attention_mma_forward(cudaStream_t stream, bf16 *out, int64_t ld_out, float *saved,
                                  const bf16 *q, int64_t ld_q, const bf16 *k, int64_t ld_k,
                                  const bf16 *v, int64_t ld_v, const struct ops_attention *a);
/* d_q, d_k and d_v of dots = D_i, which is (S, heads, q_len_max). */
cudaError_t attention_mma_backward(cudaStream_t stream, bf16 *d_q, bf16 *d_k, bf16 *d_v,
                                   const bf16 *d_out, int64_t ld_out, const float *saved,
                                   const float *dots, const bf16 *q, int64_t ld_q, const bf16 *k,
                                   int64_t ld_k, const bf16 *v, int64_t ld_v,
                                   const struct ops_attention *a);
