/* worker/ops/cuda/columns.cuh - sums over rows, for the gradients of parameters, in two stages.
 *
 * Order      stage 1: the rows are cut into blocks, a function of R alone; of a block each of 8 warps
 *            sums every eighth row in order, then the 8 sums are added in order. Stage 2 adds the
 *            blocks' sums in order, and the result to the gradient.
 * Bytes      each element is read once; partial sums are 1/16 of the rows at most.
 */
#pragma once

#include "worker/ops/cuda/cuda.cuh"

enum { COLUMN_WARPS = 8, COLUMN_THREADS = 32 * COLUMN_WARPS, COLUMN_BLOCKS_MAX = 64 };

/* Rows of a block. */
static inline int64_t column_block_rows(int64_t R)
{
    const int64_t rows = cu_ceil_div(R, COLUMN_BLOCKS_MAX);
    return rows > 16 ? rows : 16;
}
static inline size_t column_scratch(int64_t R, int64_t N, int sums)
{
    const int64_t blocks = cu_ceil_div(R, column_block_rows(R));
    return (size_t)((blocks > 0 ? blocks : 1) * sums * N) * sizeof(float);
}

/* source(x, row, column) sets x[SUMS][V] to what SUMS sums take from V columns of a row. partial:
 * (blocks, SUMS, N). */
template <int V, int SUMS, typename Source>
__global__ void __launch_bounds__(COLUMN_THREADS)
    column_partials(float *partial, const Source source, int64_t R, int64_t N, int64_t rows)
{
    CU_SHARED(float, warps, [COLUMN_WARPS][SUMS][32 * V]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t tile = (int64_t)blockIdx.x * 32 * V, column = tile + lane * V;
    const int64_t first = (int64_t)blockIdx.y * rows;
    const int64_t end = first + rows < R ? first + rows : R;
    float sum[SUMS][V] = {};
    if (column < N) {
        CU_UNROLL_BY(4)
        for (int64_t r = first + warp; r < end; r += COLUMN_WARPS) {
            float x[SUMS][V];
            source(x, r, column);
            CU_UNROLL
            for (int k = 0; k < SUMS; k++)
                CU_UNROLL
            for (int j = 0; j < V; j++)
                sum[k][j] += x[k][j];
        }
    }
    CU_UNROLL
    for (int k = 0; k < SUMS; k++)
        CU_UNROLL
    for (int j = 0; j < V; j++)
        warps[warp][k][lane * V + j] = sum[k][j];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SUMS * 32 * V; i += COLUMN_THREADS) {
        const int k = i / (32 * V), c = i % (32 * V);
        float total = 0;
        CU_UNROLL
        for (int w = 0; w < COLUMN_WARPS; w++)
            total += warps[w][k][c];
        if (tile + c < N)
            partial[((int64_t)blockIdx.y * SUMS + k) * N + tile + c] = total;
    }
}

/* sum_k (N) += partials; sum_1 only where there are two. */
template <int SUMS>
__global__ void __launch_bounds__(COLUMN_THREADS)
    column_totals(float *sum_0, float *sum_1, const float *partial, int64_t blocks, int64_t N)
{
    const int64_t i = (int64_t)blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (i >= SUMS * N)
        return;
    float total = 0;
    CU_UNROLL_BY(8)
    for (int64_t b = 0; b < blocks; b++)
        total += partial[b * SUMS * N + i];
    float *sum = i < N ? sum_0 + i : sum_1 + (i - N);
    *sum += total;
}

template <int V, int SUMS, typename Source>
static void column_sums(cudaStream_t stream, float *sum_0, float *sum_1, const Source &source,
                        int64_t R, int64_t N, void *scratch)
{
    float *partial = (float *)scratch;
    const int64_t rows = column_block_rows(R), blocks = cu_ceil_div(R, rows);
    const dim3 grid((unsigned)cu_ceil_div(N, 32 * V), (unsigned)blocks);
    CU_LAUNCH((column_partials<V, SUMS, Source>), grid, COLUMN_THREADS, 0, stream, partial, source,
              R, N, rows);
    CU_LAUNCH((column_totals<SUMS>), (unsigned)cu_ceil_div(SUMS * N, COLUMN_THREADS),
              COLUMN_THREADS, 0, stream, sum_0, sum_1, partial, blocks, N);
}
