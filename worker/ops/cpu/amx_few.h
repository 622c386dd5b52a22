/* worker/ops/cpu/amx_few.h - products on AMX of few rows by W's bf16 rows as they lie: multiply_few of panels.h. x86 alone.
 *
 * W's tiles are loaded from its rows, so the product is y's transpose, W times x^T: GROUP tiles below one another by one of x, or by
 * one for each part of x's values. While they are multiplied, what comes next is fetched: these rows' next elements, or the next rows.
 */
#pragma once

#include "worker/ops/cpu/amx.h"

enum { GROUP = 4, FEW_STEPS = 32 };

/* A line of each of 16 rows. */
AMX_INLINE void fetch_rows(const char *at, size_t step)
{
    for (size_t r = 0; r < 16; r++)
        _mm_prefetch(at + r * step, _MM_HINT_T1);
}

/* Sums i += the rows of W from w on times x's parts in tiles 4 and, if there are three, 5 and 6. A macro, as tiles are constants. */
#define MULTIPLY_ROWS(i, w, step, parts)                                                           \
    do {                                                                                           \
        LOAD_TILE(7, w, step);                                                                     \
        if ((parts) == 3) {                                                                        \
            MULTIPLY_TILES(i, 7, 6);                                                               \
            MULTIPLY_TILES(i, 7, 5);                                                               \
        }                                                                                          \
        MULTIPLY_TILES(i, 7, 4);                                                                   \
    } while (0)

/* sums (tiles * 16, 16) = or += `steps` steps of W, from rows `step` bytes apart, times x's, of `parts` tiles each. next: as many
 * rows. */
AMX_INLINE void multiply_rows(float *sums, const char *w, const char *next, size_t step,
                              const struct tile *x, int64_t parts, int64_t steps, int64_t tiles,
                              bool add)
{
    enum { SUMS = 16 * LANES };
    const size_t tile = 16 * step;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (add) {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + SUMS, 64);
        _tile_loadd(2, sums + 2 * SUMS, 64);
        _tile_loadd(3, sums + 3 * SUMS, 64);
    }
    for (int64_t k = 0; k < steps; k++, w += LINE, next += LINE, x += parts) {
        LOAD_TILE(4, x, LINE);
        if (parts == 3) {
            LOAD_TILE(5, x + 1, LINE);
            LOAD_TILE(6, x + 2, LINE);
        }
        MULTIPLY_ROWS(0, w, step, parts);
        fetch_rows(next, step);
        if (tiles > 1) {
            MULTIPLY_ROWS(1, w + tile, step, parts);
            fetch_rows(next + tile, step);
        }
        if (tiles > 2) {
            MULTIPLY_ROWS(2, w + 2 * tile, step, parts);
            fetch_rows(next + 2 * tile, step);
        }
        if (tiles > 3) {
            MULTIPLY_ROWS(3, w + 3 * tile, step, parts);
            fetch_rows(next + 3 * tile, step);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
    _tile_stored(3, sums + 3 * SUMS, 64);
}

/* Rows [0, R) of y's 16 columns. */
AVX512 static void store_turned(float *y, int64_t ld, const float *sums, int64_t R)
{
    __m512i rows[LANES];
    for (int i = 0; i < LANES; i++)
        rows[i] = _mm512_load_si512(sums + i * LANES);
    transpose_dwords(rows);
    for (int64_t r = 0; r < R; r++)
        _mm512_storeu_si512(y + r * ld, rows[r]);
}

/* A form's multiply_few, where a step of x is `parts` tiles: 1 or 3. */
AMX_INLINE void multiply_few_rows(float *y, int64_t ld, const struct tile *x, int64_t R,
                                  const uint16_t *w, int64_t columns, int64_t rest, int64_t K,
                                  int64_t parts)
{
    float sums[GROUP * 16 * LANES] __attribute__((aligned(64)));
    const size_t step = (size_t)K * sizeof *w;
    const int64_t steps = steps_of(K);
    _tile_loadconfig(&tile_config);
    for (int64_t n = 0; n < columns; n += GROUP * 16) {
        const int64_t tiles = bl_min(GROUP, (columns - n) / 16),
                      after = bl_min(GROUP * 16, columns + rest - n - GROUP * 16);
        const char *rows = (const char *)(w + n * K);
        for (int64_t k = 0; k < steps; k += FEW_STEPS) {
            const int64_t some = bl_min(FEW_STEPS, steps - k);
            const char *at = rows + k * LINE;
            const char *next = k + some < steps      ? at + some * LINE
                               : after == GROUP * 16 ? rows + (size_t)(GROUP * 16) * step
                                                     : at;
            multiply_rows(sums, at, next, step, x + parts * k, parts, some, tiles, k > 0);
        }
        for (int64_t t = 0; t < tiles; t++)
            store_turned(y + n + t * 16, ld, sums + t * 16 * LANES, R);
    }
    _tile_release();
}
