/* worker/ops/cpu/tiles.h - a product in f32 cut into tiles, each one single-threaded sgemm of the library. */
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include "worker/ops/cpu/cpu.h"

/* (rows, columns) cut into row_count x column_count tiles of at most these sizes. */
struct tiles {
    int64_t rows, columns, row_count, column_count, count;
};

/* n in equal blocks of at most `most`, rounded up to `multiple`. */
static inline int64_t even_block(int64_t n, int64_t most, int64_t multiple)
{
    int64_t block = bl_ceil_div(n, bl_ceil_div(n, most));
    return bl_ceil_div(block, multiple) * multiple;
}

/* Measured (AVX-512, one core, 192 to 3072 columns): tiles of 128 x 384, and of many rows 256 x
 * 384, come within a tenth of the library on the whole, and leave enough of them for the threads, or 128 x 144 where
 * there would be few (144 x 2048 by 64 rows: 118 GFLOP/s of 121, 96 columns: 90). 48 columns and 8 rows are its step. */
static inline struct tiles tiles_of(int64_t rows, int64_t columns)
{
    const int64_t most = rows < 1024 ? 128 : 256;
    const bool scarce = bl_ceil_div(rows, most) * bl_ceil_div(columns, 384) < 4;
    struct tiles t = {.rows = even_block(rows, most, 8),
                      .columns = even_block(columns, scarce ? 144 : 384, 48)};
    t.row_count = bl_ceil_div(rows, t.rows);
    t.column_count = bl_ceil_div(columns, t.columns);
    t.count = t.row_count * t.column_count;
    return t;
}

/* Tiles of a product, at least: some for each thread, so that none waits long for the last. */
static inline int64_t tiles_wanted(const struct cpu *cpu)
{
    return cpu->threads > 1 ? 4 * cpu->threads : 1;
}

/* For cpu_threads: a multiplication takes a sixteenth of a simple operation, and reading an element
 * of W a whole one. */
static inline int64_t work_of(int64_t R, int64_t N, int64_t K)
{
    return (R + 15) * N * K / 16;
}

/* y = x op(W): row-major, single-threaded (cpu.h, Threads). */
static inline void sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K,
                         const float *a, int64_t ld_a, const float *b, int64_t ld_b, float beta,
                         float *y, int64_t ld_y)
{
    dnnl_status_t status =
        dnnl_sgemm(transpose_a, transpose_b, M, N, K, 1, a, ld_a, b, ld_b, beta, y, ld_y);
    BL_ASSERT(status == dnnl_success);
}
