/* worker/ops/cpu/amx.h - what products on AMX share: tiles of bf16, and the processor's registers for them. x86 alone.
 *
 * A tile of x is 16 rows of 32 values, a tile of B 16 pairs of rows by 16 columns: HALVES of these make a panel's step along K.
 * tdpbf16ps multiplies one of each and adds to 16 x 16 sums, in order of k.
 */
#pragma once

#include "worker/ops/cpu/panels.h"
#include "worker/ops/cpu/transpose.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define INLINE AVX512 static inline __attribute__((always_inline))
#define AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))
#define AMX_INLINE AMX static inline __attribute__((always_inline))

enum {
    STRIP = 16,
    PANEL = 32,
    STEP = 32,                      /* values along K of a tile */
    BLOCK = 128,                    /* of a block */
    LINE = STEP * sizeof(uint16_t), /* bytes of a tile's row */
    LANES = 16,
    HALVES = PANEL / LANES,
    BLOCK_STEPS = BLOCK / STEP,
};

struct tile {
    uint16_t values[16][STEP];
};

static inline int64_t steps_of(int64_t K)
{
    return bl_ceil_div(K, STEP);
}

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* All eight are whole. */
static const struct tile_config tile_config = {
    .palette = 1,
    .row_bytes = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* Instructions that do nothing follow each product and each load of a tile in the loops: where the processor holds tiles back
 * (docs/performance.md), two that are closer take longer, products 17 ns for 10, with loads 23 for 19. Else they cost nothing. */
AMX_INLINE void keep_apart(void)
{
    __asm__ volatile(".rept 8\n\tnop\n\t.endr");
}

/* Of tiles, which are constants. */
#define MULTIPLY_TILES(y, x, b)                                                                    \
    do {                                                                                           \
        _tile_dpbf16ps(y, x, b);                                                                   \
        keep_apart();                                                                              \
    } while (0)
#define LOAD_TILE(tile, at, step)                                                                  \
    do {                                                                                           \
        _tile_loadd(tile, at, step);                                                               \
        keep_apart();                                                                              \
    } while (0)

/* Sums of a strip's rows of a panel, y (STRIP, PANEL), in tiles 0 and 1: from y where it is added to, else zero; and to y. */
enum { SUMS_LINE = PANEL * sizeof(float), STRIP_SUMS = STRIP * PANEL };
AMX_INLINE void begin_strip(const float *y, bool add)
{
    if (add) {
        _tile_loadd(0, y, SUMS_LINE);
        _tile_loadd(1, y + LANES, SUMS_LINE);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
}
AMX_INLINE void end_strip(float *y)
{
    _tile_stored(0, y, SUMS_LINE);
    _tile_stored(1, y + LANES, SUMS_LINE);
}

/* Of two strips, in tiles 0 to 3. */
AMX_INLINE void begin_strips(const float *y, bool add)
{
    begin_strip(y, add);
    if (add) {
        _tile_loadd(2, y + STRIP_SUMS, SUMS_LINE);
        _tile_loadd(3, y + STRIP_SUMS + LANES, SUMS_LINE);
    } else {
        _tile_zero(2);
        _tile_zero(3);
    }
}
AMX_INLINE void end_strips(float *y)
{
    end_strip(y);
    _tile_stored(2, y + STRIP_SUMS, SUMS_LINE);
    _tile_stored(3, y + STRIP_SUMS + LANES, SUMS_LINE);
}

/* A panel's step from W's element `at`, rows `step` bytes apart: min(columns, PANEL) columns by min(inner, STEP) values along K. */
typedef void load_panel_step(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                             bool transposed, int64_t columns, int64_t inner);

/* A form's load_panels (panels.h), where a step of 16 columns is `parts` tiles: panel after panel, or, where W's rows hold
 * columns, step after step, so that rows are read on from where they were left. */
INLINE void load_steps(struct tile *to, const char *w, enum bl_dtype dtype, int64_t ld,
                       bool transposed, int64_t columns, int64_t K, int64_t parts,
                       load_panel_step *load)
{
    const int64_t size = dtype == BL_F32 ? 4 : 2, panel = HALVES * parts;
    const int64_t steps = steps_of(K), panels = bl_ceil_div(columns, PANEL);
    for (int64_t i = 0; i < panels * steps; i++) {
        const int64_t c = transposed ? i % panels : i / steps,
                      k = transposed ? i / panels : i % steps, n0 = c * PANEL, k0 = k * STEP;
        load(to + (c * steps + k) * panel, w + (transposed ? k0 * ld + n0 : n0 * ld + k0) * size,
             (size_t)(ld * size), dtype, transposed, columns - n0, K - k0);
    }
}

/* What a block of a strip fetches, a part of it with each step. */
AMX_INLINE void fetch_part(const struct panels_lines *lines, int64_t step)
{
    const int64_t rows = PANELS_FETCH >> lines->shift;
    for (int64_t r = rows * step / BLOCK_STEPS; r < rows * (step + 1) / BLOCK_STEPS; r++)
        _mm_prefetch(lines->at + (size_t)r * lines->step, _MM_HINT_T1);
}

/* y (STRIP, PANEL) = or += a strip, the last of its `parts` tiles a step first, times a panel of bf16. */
AMX_INLINE void multiply_strip(float *y, const struct tile *x, const struct tile *b, int64_t steps,
                               bool add, struct panels_fetch *fetch, int64_t parts)
{
    struct panels_lines lines = {0};
    begin_strip(y, add);
    for (int64_t k = 0; k < steps; k++, x += parts, b += HALVES) {
        if (k % BLOCK_STEPS == 0)
            lines = panels_next_lines(fetch);
        LOAD_TILE(6, b, LINE);
        LOAD_TILE(7, b + 1, LINE);
        fetch_part(&lines, k % BLOCK_STEPS);
        for (int64_t p = parts - 1; p >= 0; p--) {
            LOAD_TILE(4, x + p, LINE);
            MULTIPLY_TILES(0, 4, 6);
            MULTIPLY_TILES(1, 4, 7);
        }
    }
    end_strip(y);
}

/* y = or += the strips, by two and by one, times `steps` steps of a panel. */
typedef void multiply_pair(float *y, const struct tile *x0, const struct tile *x1,
                           const struct tile *b, int64_t steps, bool add,
                           struct panels_fetch *fetch);
typedef void multiply_single(float *y, const struct tile *x, const struct tile *b, int64_t steps,
                             bool add, struct panels_fetch *fetch);

/* A form's multiply (panels.h), where a strip's step is `parts` tiles. */
AMX_INLINE void multiply_strips(float *y, const struct tile *strips, int64_t count, int64_t K,
                                const struct tile *panel, int64_t first, int64_t end,
                                struct panels_fetch *fetch, int64_t parts, multiply_pair *two,
                                multiply_single *one)
{
    const int64_t all = steps_of(K), k = first * BLOCK_STEPS,
                  steps = bl_min(all, end * BLOCK_STEPS) - k, strip = parts * all;
    const struct tile *x = strips + parts * k;
    int64_t s = 0;
    _tile_loadconfig(&tile_config);
    for (; s + 2 <= count; s += 2)
        two(y + s * STRIP_SUMS, x + s * strip, x + (s + 1) * strip, panel, steps, first > 0, fetch);
    if (s < count)
        one(y + s * STRIP_SUMS, x + s * strip, panel, steps, first > 0, fetch);
    _tile_release();
}

/* panel_bytes and load_panels of panels.h, of values rounded to bf16: amx.c. */
size_t amx_panel_bytes(int64_t K);
void amx_load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld, bool transposed,
                     int64_t columns, int64_t K);
/* Leave of the processor and the system for tiles. */
bool amx_permitted(void);
