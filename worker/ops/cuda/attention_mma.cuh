/* worker/ops/cuda/attention_mma.cuh - attention's tiles on tensor cores: rows of bf16 in shared memory, and
 * products of a warp's 16 of them.
 *
 * Tiles      heads are padded with zeros to 16 DEPTH columns; rows in shared memory are 16 bytes longer than
 *            that, so that the 8 rows of a matrix lie in different banks.
 * Results    of 16 rows x 8 n columns, in float[n][4]: a lane has rows g and g + 8, of each tile of 8 columns
 *            two (mma.cuh).
 */
#pragma once

#include "worker/ops/cuda/attention.cuh"
#include "worker/ops/cuda/mma.cuh"

enum { MMA_PIECE = 8 /* elements of 16 bytes */ };

/* Elements between rows of a tile. */
template <int DEPTH> constexpr int MMA_LD = 16 * DEPTH + MMA_PIECE;

template <int DEPTH> using mma_tile = bf16 (*)[MMA_LD<DEPTH>];
template <int DEPTH> using mma_const_tile = const bf16 (*)[MMA_LD<DEPTH>];

/* Tile `index` of tiles of ROWS rows that follow each other. */
template <int DEPTH, int ROWS>
__device__ __forceinline__ mma_tile<DEPTH> mma_tile_at(unsigned char *shared, int index)
{
    return (mma_tile<DEPTH>)(shared + index * ROWS * MMA_LD<DEPTH> * (int)sizeof(bf16));
}
template <int DEPTH> constexpr size_t mma_bytes(int rows)
{
    return (size_t)rows * MMA_LD<DEPTH> * sizeof(bf16);
}

/* Starts to copy `count` rows of `d` columns; zeros beyond, up to ROWS rows and 16 DEPTH columns. */
template <int DEPTH, int ROWS, int THREADS>
__device__ __forceinline__ void mma_copy(mma_tile<DEPTH> tile, const bf16 *x, int64_t ld, int count,
                                         int d)
{
    constexpr int PIECES = 16 * DEPTH / MMA_PIECE;
    static_assert(ROWS * PIECES % THREADS == 0, "every thread copies as much");
    CU_UNROLL_BY(4) /* all at once would keep as many addresses in registers */
    for (int i = 0; i < ROWS * PIECES / THREADS; i++) {
        const int task = i * THREADS + (int)threadIdx.x;
        const int r = task / PIECES, c = task % PIECES * MMA_PIECE;
        const bool there = r < count && c < d;
        copy_async(&tile[r][c], there ? x + r * ld + c : x, there);
    }
    copy_commit();
}

/* 16 rows of a tile as the first factor of products, 16 columns from c on. */
template <int DEPTH>
__device__ __forceinline__ void mma_rows(uint32_t (&a)[4], mma_const_tile<DEPTH> rows, int c)
{
    const int lane = (int)threadIdx.x % 32;
    load_matrices(a, &rows[lane % 16][c + lane / 16 * 8]);
}

/* y (16, 16 N) += a (16 rows x 16 columns from c on) other^T, of 16 N rows of `other` */
template <int DEPTH, int N>
__device__ __forceinline__ void mma_step(float (&y)[2 * N][4], const uint32_t (&a)[4],
                                         mma_const_tile<DEPTH> other, int c)
{
    const int lane = (int)threadIdx.x % 32;
    const int row = lane / 16 * 8 + lane % 8, column = c + lane / 8 % 2 * 8;
    CU_UNROLL
    for (int n = 0; n < N; n++) {
        uint32_t b[4];
        load_matrices(b, &other[16 * n + row][column]);
        multiply_add(y[2 * n], a, b[0], b[1]);
        multiply_add(y[2 * n + 1], a, b[2], b[3]);
    }
}

/* y (16, 16 N) = rows other^T */
template <int DEPTH, int N>
__device__ __forceinline__ void mma_scores(float (&y)[2 * N][4], mma_const_tile<DEPTH> rows,
                                           mma_const_tile<DEPTH> other)
{
    CU_UNROLL
    for (int n = 0; n < 2 * N; n++)
        CU_UNROLL
    for (int i = 0; i < 4; i++)
        y[n][i] = 0;
    CU_UNROLL
    for (int c = 0; c < DEPTH; c++) {
        uint32_t a[4];
        mma_rows<DEPTH>(a, rows, 16 * c);
        mma_step<DEPTH, N>(y, a, other, 16 * c);
    }
}

/* a = 16 columns of p, two tiles, rounded to bf16; p keeps what was rounded away. */
__device__ __forceinline__ void mma_round(uint32_t (&a)[4], float (&left)[4], float (&right)[4])
{
    CU_UNROLL
    for (int i = 0; i < 4; i++) {
        float(&tile)[4] = i < 2 ? left : right;
        const int at = i % 2 * 2;
        a[i] = pack_bf16(tile[at], tile[at + 1]);
        tile[at] -= __uint_as_float(a[i] << 16);
        tile[at + 1] -= __uint_as_float(a[i] & 0xFFFF0000u);
    }
}

/* sum (16, 16 COLUMNS) += p (16, 16 N) x, of 16 N rows of x and 16 COLUMNS columns from `first` on. p is
 * multiplied as PARTS numbers of bf16: as one it is rounded, as two it has 16 bits. It is used up. */
template <int DEPTH, int COLUMNS, int N, int PARTS>
__device__ __forceinline__ void mma_add(float (&sum)[2 * COLUMNS][4], float (&p)[2 * N][4],
                                        mma_const_tile<DEPTH> x, int first)
{
    const int lane = (int)threadIdx.x % 32;
    const int row = lane % 16, column = first + lane / 16 * 8;
    CU_UNROLL
    for (int n = 0; n < N; n++) {
        uint32_t a[PARTS][4];
        CU_UNROLL
        for (int part = 0; part < PARTS; part++)
            mma_round(a[part], p[2 * n], p[2 * n + 1]);
        CU_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            uint32_t b[4];
            load_matrices_turned(b, &x[16 * n + row][16 * c + column]);
            CU_UNROLL
            for (int part = 0; part < PARTS; part++) {
                multiply_add(sum[2 * c], a[part], b[0], b[1]);
                multiply_add(sum[2 * c + 1], a[part], b[2], b[3]);
            }
        }
    }
}

/* y = sum factor[half], rows g and g + 8 of `rows`, columns from `first` on, up to d. y is row 0's. */
template <int TILES>
__device__ __forceinline__ void mma_write(bf16 *y, int64_t ld, const float (&sum)[TILES][4],
                                          const float (&factor)[2], int rows, int first, int d)
{
    const int lane = (int)threadIdx.x % 32;
    CU_UNROLL
    for (int half = 0; half < 2; half++) {
        const int r = lane / 4 + 8 * half, column = first + lane % 4 * 2;
        CU_UNROLL
        for (int n = 0; n < TILES; n++)
            if (r < rows && first + 8 * n < d)
                *(uint32_t *)(y + r * ld + column + 8 * n) =
                    pack_bf16(sum[n][2 * half] * factor[half], sum[n][2 * half + 1] * factor[half]);
    }
}
