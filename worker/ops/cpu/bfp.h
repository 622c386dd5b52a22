/* worker/ops/cpu/bfp.h - products in block floating point: y (M,N) f32 = x (M,K) times B (K,N), for
 * processors whose 16-bit integer products are twice as fast as their f32 ones (AVX-512 VNNI).
 *
 * Along K, each row of x and each column of B is cut into blocks of BFP_BLOCK values. A block is integers of
 * 12 bits and a sign and one f32 scale, its largest magnitude / 4095. Products of two blocks are summed
 * exactly in int32 (4095^2 * 128 < 2^31), scaled, and added in f32 in the order of the blocks: an
 * element's sum is a function of its row, its column and K alone, whatever tiles and threads there are.
 *
 * Error      of a value at most 1/8190 of its block's largest. bf16 rounds each value by up to 1/512
 *            of itself, the largest included: for normally distributed values the products here are six
 *            times as exact as bf16's, and with one huge value in a block still as exact.
 * Not finite a block with an infinity or a NaN has the scale NaN. Blocks below 2^-100 are zero.
 * Layout     a strip is BFP_STRIP rows of x, a panel BFP_PANEL columns of B, each whole along K, 64-byte
 *            aligned memory of the caller.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/models/safetensors.h"

enum { BFP_BLOCK = 128, BFP_STRIP = 8, BFP_PANEL = 48 };

/* Whether the processor (and DNNL_MAX_CPU_ISA) has the instructions. Nothing else may be called
 * otherwise. */
bool bfp_is_possible(void);

size_t bfp_strip_bytes(int64_t K);
size_t bfp_panel_bytes(int64_t K);

/* x (rows,K), at most BFP_STRIP rows, `ld` elements apart. */
void bfp_load_strip(void *strip, const float *x, int64_t ld, int64_t rows, int64_t K);
/* All rows of x, strip after strip. */
void bfp_load_strips(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K);
/* Blocks of values along K, the last one shorter. */
int64_t bfp_block_count(int64_t K);
/* `columns` columns of B, panel after panel, where W's rows are `ld` elements apart: B = W^T, `columns` rows
 * of K elements from w on, or, transposed, B = W, K rows of `columns` elements. */
void bfp_load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld, bool transposed,
                     int64_t columns, int64_t K);

/* Memory that will be needed soon: `rows` rows of `bytes`, `step` bytes apart. Products fetch a part of it into the L2 cache
 * with each block, since they leave the way from memory idle; `at` is where they have come to. */
struct bfp_fetch {
    const char *at;
    size_t step, bytes, done;
    int64_t rows;
    int shift; /* a block fetches a line of BFP_BLOCK / 2 >> shift rows */
};
/* y (count * BFP_STRIP, BFP_PANEL) = strips, one after the other, times blocks [first, end) of K's of a
 * column panel; += where first > 0. panel begins with block `first`. fetch: its rows 0 where nothing is. */
void bfp_multiply(float *y, const void *strips, int64_t count, int64_t K, const void *panel,
                  int64_t first, int64_t end, struct bfp_fetch *fetch);
