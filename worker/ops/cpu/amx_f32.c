/* worker/ops/cpu/amx_f32.c - products of f32 on AMX: see panels.h and amx.h.
 *
 * Each value is three bf16, high, middle and low, 24 bits in all, without loss; six of the nine products of the parts are made, in
 * f32 sums. What is left out, low by middle and smaller, is at most 2^-25 of a product, where f32 rounds by 2^-24. (Henry, Tang,
 * Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations, ARITH 2019.)
 *
 * A W in bf16 is one part, the high one, and three products are as exact: a form of its own.
 *
 * Not finite an infinity gives a NaN. Parts below 2^-126 are zero.
 */
#include "worker/ops/cpu/panels.h"

#include "worker/ops/cpu/cpu.h"

#ifdef CPU_X86
#include "worker/ops/cpu/amx_few.h"

enum { HIGH, MIDDLE, LOW, PARTS };

static size_t strip_bytes(int64_t K)
{
    return PARTS * sizeof(struct tile) * (size_t)steps_of(K);
}

static size_t panel_bytes(int64_t K)
{
    return HALVES * PARTS * sizeof(struct tile) * (size_t)steps_of(K);
}

/* 16 values' parts, each in the upper halves of dwords: what is left of them, rounded to bf16. The last ones have no more than
 * its bits. */
INLINE void split(__m512i *to, __m512 x)
{
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000), half = _mm512_set1_epi32(0x8000);
    for (int p = HIGH; p < LOW; p++) {
        to[p] = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(to[p]));
    }
    to[LOW] = _mm512_castps_si512(x);
}

/* -- strips -- */

/* Row r of a step's tiles, `count` values. */
INLINE void load_row(struct tile *to, int64_t r, const float *x, int64_t count)
{
    const __m512i odd =
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    __m512i low[PARTS], high[PARTS];
    split(low, _mm512_maskz_loadu_ps(lanes_of(count), x));
    split(high, _mm512_maskz_loadu_ps(lanes_of(count - LANES), x + LANES));
    for (int p = 0; p < PARTS; p++)
        _mm512_store_si512(to[p].values[r], _mm512_permutex2var_epi16(low[p], odd, high[p]));
}

AVX512 static void load_strips(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K)
{
    struct tile *tile = strips;
    for (int64_t r0 = 0; r0 < rows; r0 += STRIP)
        for (int64_t k = 0; k < K; k += STEP, tile += PARTS)
            for (int64_t r = 0; r < STRIP; r++)
                load_row(tile, r, x + bl_min(r0 + r, rows - 1) * ld + k, r0 + r < rows ? K - k : 0);
}

/* -- panels. `dtype` is a constant at each call -- */

/* 16 values of a row of W, `count` of which are in it. */
INLINE __m512 row_values(const char *at, enum bl_dtype dtype, int64_t count)
{
    const __mmask16 mask = lanes_of(count);
    return dtype == BL_F32 ? _mm512_maskz_loadu_ps(mask, at)
                           : _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at));
}

/* Line i of 16 columns' tiles: rows 2 i and 2 i + 1 of B. */
INLINE void store_pair(struct tile *to, int i, __m512 even, __m512 odd)
{
    __m512i first[PARTS], second[PARTS];
    split(first, even);
    split(second, odd);
    for (int p = 0; p < PARTS; p++)
        _mm512_store_si512(to[p].values[i],
                           _mm512_or_si512(_mm512_srli_epi32(first[p], 16), second[p]));
}

/* 16 columns of B = W^T from as many rows of W, `rows` of which there are. */
INLINE void load_turned(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                        int64_t rows, int64_t count)
{
    const size_t size = dtype == BL_F32 ? 4 : 2;
    for (int k = 0; k < STEP; k += LANES) {
        __m512i x[LANES];
        for (int n = 0; n < LANES; n++)
            x[n] = n < rows ? _mm512_castps_si512(row_values(
                                  at + (size_t)n * step + (size_t)k * size, dtype, count - k))
                            : _mm512_setzero_si512();
        transpose_dwords(x);
        for (int i = 0; i < LANES; i += 2)
            store_pair(to, (k + i) / 2, _mm512_castsi512_ps(x[i]), _mm512_castsi512_ps(x[i + 1]));
    }
}

/* 16 columns of B = W from 32 rows of W, `rows` of which there are. */
INLINE void load_paired(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                        int64_t rows, int64_t count)
{
    for (int k = 0; k < STEP; k += 2)
        store_pair(to, k / 2, row_values(at + (size_t)k * step, dtype, k < rows ? count : 0),
                   row_values(at + (size_t)(k + 1) * step, dtype, k + 1 < rows ? count : 0));
}

INLINE void load_step(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                      bool transposed, int64_t columns, int64_t inner)
{
    const size_t size = dtype == BL_F32 ? 4 : 2;
    for (int64_t h = 0; h < PANEL; h += LANES, to += PARTS)
        if (transposed)
            load_paired(to, at + (size_t)h * size, step, dtype, inner, columns - h);
        else
            load_turned(to, at + (size_t)h * step, step, dtype, columns - h, inner);
}

AVX512 static void load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld,
                               bool transposed, int64_t columns, int64_t K)
{
    if (dtype == BL_F32)
        load_steps(panels, w, BL_F32, ld, transposed, columns, K, PARTS, load_step);
    else
        load_steps(panels, w, BL_F16, ld, transposed, columns, K, PARTS, load_step);
}

/* -- products -- */

/* Sums 0 to 3 += tiles 4 and 5 of x times 6 and 7 of the panel; then what the next product takes of x, of the panel, or of both. */
AMX_INLINE void multiply_then_x(const struct tile *x0, const struct tile *x1)
{
    MULTIPLY_TILES(0, 4, 6);
    MULTIPLY_TILES(1, 4, 7);
    LOAD_TILE(4, x0, LINE);
    MULTIPLY_TILES(2, 5, 6);
    MULTIPLY_TILES(3, 5, 7);
    LOAD_TILE(5, x1, LINE);
}
AMX_INLINE void multiply_then_panel(const struct tile *b)
{
    MULTIPLY_TILES(0, 4, 6);
    MULTIPLY_TILES(2, 5, 6);
    LOAD_TILE(6, b, LINE);
    MULTIPLY_TILES(1, 4, 7);
    MULTIPLY_TILES(3, 5, 7);
    LOAD_TILE(7, b + PARTS, LINE);
}
AMX_INLINE void multiply_then_both(const struct tile *x0, const struct tile *x1,
                                   const struct tile *b, int64_t parts)
{
    MULTIPLY_TILES(0, 4, 6);
    MULTIPLY_TILES(1, 4, 7);
    LOAD_TILE(4, x0, LINE);
    MULTIPLY_TILES(2, 5, 6);
    LOAD_TILE(6, b, LINE);
    MULTIPLY_TILES(3, 5, 7);
    LOAD_TILE(7, b + parts, LINE);
    LOAD_TILE(5, x1, LINE);
}

/* The pairs of parts in the order of their sums: each differs from the one before in x's part or in the panel's alone. */
enum { PAIRS = 6 };
static const struct {
    int x, panel;
} pairs[PAIRS] = {{LOW, HIGH},      {HIGH, HIGH},   {MIDDLE, HIGH},
                  {MIDDLE, MIDDLE}, {HIGH, MIDDLE}, {HIGH, LOW}};

/* y (2 STRIP, PANEL) = or += two strips times `steps` steps of a panel. */
AMX static void multiply_two(float *y, const struct tile *x0, const struct tile *x1,
                             const struct tile *b, int64_t steps, bool add,
                             struct panels_fetch *fetch)
{
    struct panels_lines lines[2] = {{0}};
    begin_strips(y, add);
    _tile_loadd(4, x0 + LOW, LINE);
    _tile_loadd(6, b + HIGH, LINE);
    _tile_loadd(7, b + PARTS + HIGH, LINE);
    _tile_loadd(5, x1 + LOW, LINE);
    for (int64_t k = 0; k < steps; k++) {
        const int64_t next = k + 1 < steps ? PARTS : 0;
        if (k % BLOCK_STEPS == 0)
            for (int i = 0; i < 2; i++)
                lines[i] = panels_next_lines(fetch);
        multiply_then_x(x0 + HIGH, x1 + HIGH);
        fetch_part(&lines[0], k % BLOCK_STEPS);
        multiply_then_x(x0 + MIDDLE, x1 + MIDDLE);
        multiply_then_panel(b + MIDDLE);
        fetch_part(&lines[1], k % BLOCK_STEPS);
        multiply_then_x(x0 + HIGH, x1 + HIGH);
        multiply_then_panel(b + LOW);
        x0 += next;
        x1 += next;
        b += HALVES * next;
        multiply_then_both(x0 + LOW, x1 + LOW, b + HIGH, PARTS);
    }
    end_strips(y);
}

/* One strip. */
AMX static void multiply_one(float *y, const struct tile *x, const struct tile *b, int64_t steps,
                             bool add, struct panels_fetch *fetch)
{
    struct panels_lines lines = {0};
    begin_strip(y, add);
    for (int64_t k = 0; k < steps; k++, x += PARTS, b += HALVES * PARTS) {
        if (k % BLOCK_STEPS == 0)
            lines = panels_next_lines(fetch);
        fetch_part(&lines, k % BLOCK_STEPS);
        for (int i = 0; i < PAIRS; i++) {
            LOAD_TILE(4, x + pairs[i].x, LINE);
            LOAD_TILE(6, b + pairs[i].panel, LINE);
            LOAD_TILE(7, b + PARTS + pairs[i].panel, LINE);
            MULTIPLY_TILES(0, 4, 6);
            MULTIPLY_TILES(1, 4, 7);
        }
    }
    end_strip(y);
}

AMX static void multiply(float *y, const void *strips, int64_t count, int64_t K, const void *panel,
                         int64_t first, int64_t end, struct panels_fetch *fetch)
{
    multiply_strips(y, strips, count, K, panel, first, end, fetch, PARTS, multiply_two,
                    multiply_one);
}

/* -- products with a W in bf16 -- */

AMX static void multiply_two_half(float *y, const struct tile *x0, const struct tile *x1,
                                  const struct tile *b, int64_t steps, bool add,
                                  struct panels_fetch *fetch)
{
    struct panels_lines lines[2] = {{0}};
    begin_strips(y, add);
    _tile_loadd(4, x0 + LOW, LINE);
    _tile_loadd(6, b, LINE);
    _tile_loadd(7, b + 1, LINE);
    _tile_loadd(5, x1 + LOW, LINE);
    for (int64_t k = 0; k < steps; k++) {
        const int64_t next = k + 1 < steps;
        if (k % BLOCK_STEPS == 0)
            for (int i = 0; i < 2; i++)
                lines[i] = panels_next_lines(fetch);
        multiply_then_x(x0 + MIDDLE, x1 + MIDDLE);
        fetch_part(&lines[0], k % BLOCK_STEPS);
        multiply_then_x(x0 + HIGH, x1 + HIGH);
        fetch_part(&lines[1], k % BLOCK_STEPS);
        x0 += PARTS * next;
        x1 += PARTS * next;
        b += HALVES * next;
        multiply_then_both(x0 + LOW, x1 + LOW, b, 1);
    }
    end_strips(y);
}

AMX static void multiply_one_half(float *y, const struct tile *x, const struct tile *b,
                                  int64_t steps, bool add, struct panels_fetch *fetch)
{
    multiply_strip(y, x, b, steps, add, fetch, PARTS);
}

AMX static void multiply_half(float *y, const void *strips, int64_t count, int64_t K,
                              const void *panel, int64_t first, int64_t end,
                              struct panels_fetch *fetch)
{
    multiply_strips(y, strips, count, K, panel, first, end, fetch, PARTS, multiply_two_half,
                    multiply_one_half);
}

AVX512 static void load_few(void *few, const float *x, int64_t R, int64_t K)
{
    struct tile *tile = few;
    for (int64_t k = 0; k < K; k += STEP, tile += PARTS)
        load_turned(tile, (const char *)(x + k), (size_t)K * sizeof *x, BL_F32, R, K - k);
}

AMX static void multiply_few(float *y, int64_t ld, const void *x, int64_t R, const uint16_t *w,
                             int64_t columns, int64_t rest, int64_t K)
{
    multiply_few_rows(y, ld, x, R, w, columns, rest, K, PARTS);
}

static const struct panels_form half_form = {.name = "AMX products",
                                             .strip = STRIP,
                                             .panel = PANEL,
                                             .block = BLOCK,
                                             .strip_bytes = strip_bytes,
                                             .panel_bytes = amx_panel_bytes,
                                             .load_strips = load_strips,
                                             .load_panels = amx_load_panels,
                                             .multiply = multiply_half,
                                             .multiply_few = multiply_few,
                                             .load_few = load_few};

const struct panels_form *amx_f32_form(void)
{
    static const struct panels_form form = {.name = "AMX products",
                                            .strip = STRIP,
                                            .panel = PANEL,
                                            .block = BLOCK,
                                            .strip_bytes = strip_bytes,
                                            .panel_bytes = panel_bytes,
                                            .load_strips = load_strips,
                                            .load_panels = load_panels,
                                            .multiply = multiply,
                                            .half = &half_form};
    return amx_permitted() ? &form : NULL;
}

#else

const struct panels_form *amx_f32_form(void)
{
    return NULL;
}

#endif
