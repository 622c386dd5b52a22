/* worker/ops/cpu/panels.h - large products of values that are made for them: y (M,N) f32 = x (M,K) times B (K,N).
 *
 * x is made into strips of some rows, B into panels of some columns, each whole along K, where they are multiplied: nothing is
 * kept. Both are cut along K into blocks. What values become, and how many make a strip, a panel and a block, is the form's:
 * block floating point (bfp.c), bf16 on AMX (amx.c), or f32 in three of these (amx_f32.c).
 *
 * An element of y is a function of its row, its column and K alone, whatever tiles and threads there are.
 * Strips and panels are 64-byte aligned memory of the caller.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/models/safetensors.h"
#include "common/size.h"

/* Of the forms: rows of a strip at most; columns of a panel, in the one form and in the other. */
enum { PANELS_STRIP_MAX = 16, PANELS_PANEL_MIN = 32, PANELS_PANEL_MAX = 48 };

/* Memory that will be needed soon: `rows` rows of `bytes`, `step` bytes apart. Products fetch a part of it into the L2 cache
 * with each block of a strip, since they leave the way from memory idle; `at` is where they have come to. */
struct panels_fetch {
    const char *at;
    size_t step, bytes, done;
    int64_t rows;
    int shift; /* a block fetches a line of PANELS_FETCH >> shift rows */
};
enum { PANELS_FETCH = 64, PANELS_FETCH_SHIFT_MAX = 6 };

struct panels_form {
    const char *name;
    int64_t strip, panel, block; /* rows of x, columns of B, values along K */
    size_t (*strip_bytes)(int64_t K);
    size_t (*panel_bytes)(int64_t K);
    /* All rows of x (rows,K), `ld` elements apart, strip after strip. */
    void (*load_strips)(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K);
    /* `columns` columns of B, panel after panel, where W's rows are `ld` elements apart: B = W^T, `columns` rows
     * of K elements from w on, or, transposed, B = W, K rows of `columns` elements. */
    void (*load_panels)(void *panels, const void *w, enum bl_dtype dtype, int64_t ld,
                        bool transposed, int64_t columns, int64_t K);
    /* y (count * strip, panel) = strips, one after the other, times blocks [first, end) of K's of a column panel; += where
     * first > 0. `panel` begins with block `first`. fetch: its rows 0 where nothing is. */
    void (*multiply)(float *y, const void *strips, int64_t count, int64_t K, const void *panel,
                     int64_t first, int64_t end, struct panels_fetch *fetch);
    /* NULL, or y (R,columns), R <= PANELS_FEW_ROWS, = x (R,K) W^T with W's bf16 rows as they lie: K elements each, a multiple
     * of PANELS_FEW_INNER, of which there are `columns`, a multiple of PANELS_FEW_COLUMNS, and `rest` behind them. x as
     * load_few has it, which takes strip_bytes. */
    void (*multiply_few)(float *y, int64_t ld, const void *x, int64_t R, const uint16_t *w,
                         int64_t columns, int64_t rest, int64_t K);
    void (*load_few)(void *few, const float *x, int64_t R, int64_t K);
    /* NULL, or the form of products with a W in bf16, which are as exact. */
    const struct panels_form *half;
};
enum { PANELS_FEW_ROWS = 16, PANELS_FEW_COLUMNS = 16, PANELS_FEW_INNER = 32 };

/* NULL where the processor, or the system, or DNNL_MAX_CPU_ISA, has not what a form takes. */
const struct panels_form *bfp_form(void);
const struct panels_form *amx_form(void);
const struct panels_form *amx_f32_form(void); /* alone as exact as f32 */

/* Blocks of values along K, the last one shorter. */
static inline int64_t panels_blocks(const struct panels_form *form, int64_t K)
{
    return bl_ceil_div(K, form->block);
}

static inline int64_t panels_strips(const struct panels_form *form, int64_t rows)
{
    return bl_ceil_div(rows, form->strip);
}

/* A line each of PANELS_FETCH >> shift rows of what is to be fetched. */
struct panels_lines {
    const char *at;
    size_t step;
    int shift;
};

static inline struct panels_lines panels_next_lines(struct panels_fetch *fetch)
{
    if (fetch->rows <= 0)
        return (struct panels_lines){.at = fetch->at, .shift = PANELS_FETCH_SHIFT_MAX};
    const struct panels_lines lines = {fetch->at + fetch->done, fetch->step, fetch->shift};
    fetch->done += 64;
    if (fetch->done >= fetch->bytes) {
        fetch->at += (PANELS_FETCH >> fetch->shift) * fetch->step;
        fetch->rows -= PANELS_FETCH >> fetch->shift;
        fetch->done = 0;
    }
    return lines;
}
