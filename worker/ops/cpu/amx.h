/* worker/ops/cpu/amx.h - what products on AMX share: tiles of bf16, and how f32 and 16-bit values become them. x86 alone.
 *
 * A value is one bf16, or three (PARTS), which make up an f32 without loss: each is what is left, rounded to bf16. A strip's step
 * along K is a tile for each part: 16 rows of 32 values. A panel's is as many for each 16 columns: 16 pairs of rows of B by 16
 * columns. tdpbf16ps multiplies one of each and adds to 16 x 16 sums, in order of k.
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
    PARTS = 3,
};

struct tile {
    uint16_t values[16][STEP];
};

static inline int64_t steps_of(int64_t K)
{
    return bl_ceil_div(K, STEP);
}

/* -- values -- */

/* 32 values of a row. */
struct values {
    __m512 low, high;
};

/* `count` of them are there, zeros behind. */
INLINE struct values read_values(const char *at, enum bl_dtype dtype, int64_t count)
{
    const __mmask16 low = lanes_of(count), high = lanes_of(count - LANES);
    if (dtype == BL_F32)
        return (struct values){_mm512_maskz_loadu_ps(low, at),
                               _mm512_maskz_loadu_ps(high, at + LANES * sizeof(float))};
    const __m256i halves[2] = {_mm256_maskz_loadu_epi16(low, at),
                               _mm256_maskz_loadu_epi16(high, at + LANES * sizeof(uint16_t))};
    if (dtype == BL_F16)
        return (struct values){_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])};
    return (struct values){
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves[0]), 16)),
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves[1]), 16))};
}

/* They become `parts` times 32 bf16. */
INLINE void split(__m512i *to, struct values x, int parts)
{
    for (int p = 0; p < parts; p++) {
        const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low);
        to[p] = rounded;
        const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(rounded)),
                      high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(rounded, 1));
        x.low = _mm512_sub_ps(x.low, _mm512_castsi512_ps(_mm512_slli_epi32(low, 16)));
        x.high = _mm512_sub_ps(x.high, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16)));
    }
}

/* A row's values; one part of bf16 is as it lies. */
INLINE void read_row(__m512i *to, const char *at, enum bl_dtype dtype, int64_t count, int parts)
{
    if (dtype == BL_BF16 && parts == 1)
        to[0] = _mm512_maskz_loadu_epi16(count >= STEP ? 0xFFFFFFFF
                                         : count > 0   ? (1U << count) - 1
                                                       : 0,
                                         at);
    else
        split(to, read_values(at, dtype, count), parts);
}

/* -- strips and panels. `dtype` and `parts` are constants at each call -- */

INLINE void load_strip(struct tile *to, const float *x, int64_t ld, int64_t rows, int64_t K,
                       int parts)
{
    for (int64_t k = 0; k < K; k += STEP, to += parts)
        for (int64_t r = 0; r < STRIP; r++) {
            __m512i row[PARTS] = {0};
            if (r < rows)
                read_row(row, (const char *)(x + r * ld + k), BL_F32, K - k, parts);
            for (int p = 0; p < parts; p++)
                _mm512_store_si512(to[p].values[r], row[p]);
        }
}

/* Tiles of B = W^T, 16 columns, from 16 rows of W, `rows` of which there are. */
INLINE void load_turned(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                        int64_t rows, int64_t count, int parts)
{
    __m512i pairs[PARTS][LANES];
    for (int64_t n = 0; n < LANES; n++) {
        __m512i row[PARTS] = {0};
        if (n < rows)
            read_row(row, at + (size_t)n * step, dtype, count, parts);
        for (int p = 0; p < parts; p++)
            pairs[p][n] = row[p];
    }
    for (int p = 0; p < parts; p++) {
        transpose_dwords(pairs[p]);
        for (int i = 0; i < LANES; i++)
            _mm512_store_si512(to[p].values[i], pairs[p][i]);
    }
}

/* Tiles of B = W, a panel's columns, from 32 rows of W, `rows` of which there are. */
INLINE void load_paired(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                        int64_t rows, int64_t count, int parts)
{
    const __m512i ascending =
        _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5,
                         5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i low = _mm512_mask_add_epi16(ascending, 0xAAAAAAAA, ascending,
                                              _mm512_set1_epi16(32)),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t k = 0; k < STEP; k += 2) {
        const char *row = at + (size_t)k * step;
        __m512i even[PARTS] = {0}, odd[PARTS] = {0};
        if (k < rows)
            read_row(even, row, dtype, count, parts);
        if (k + 1 < rows)
            read_row(odd, row + step, dtype, count, parts);
        for (int p = 0; p < parts; p++) {
            _mm512_store_si512(to[p].values[k / 2],
                               _mm512_permutex2var_epi16(even[p], low, odd[p]));
            _mm512_store_si512(to[parts + p].values[k / 2],
                               _mm512_permutex2var_epi16(even[p], high, odd[p]));
        }
    }
}

INLINE void load_panel_step(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                            bool transposed, int64_t columns, int64_t inner, int parts)
{
    if (transposed)
        load_paired(to, at, step, dtype, inner, columns, parts);
    else
        for (int64_t h = 0; h < HALVES; h++)
            load_turned(to + h * parts, at + (size_t)(h * LANES) * step, step, dtype,
                        columns - h * LANES, inner, parts);
}

/* See struct panels_form. */
INLINE void load_columns(struct tile *to, const void *w, enum bl_dtype dtype, int64_t ld,
                         bool transposed, int64_t columns, int64_t K, int parts)
{
    const size_t size = dtype == BL_F32 ? 4 : 2, step = (size_t)ld * size;
    const int64_t steps = steps_of(K), tiles = HALVES * parts;
    for (int64_t k = 0; k < K; k += STEP)
        for (int64_t c = 0; c < columns; c += PANEL)
            load_panel_step(to + (c / PANEL * steps + k / STEP) * tiles,
                            (const char *)w + (size_t)(transposed ? k * ld + c : c * ld + k) * size,
                            step, dtype, transposed, bl_min(PANEL, columns - c),
                            bl_min(STEP, K - k), parts);
}

/* -- the processor's tiles -- */

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

/* Sums in tiles 0 to 3, 2 STRIP rows of a panel: from y where it is added to, else zero; and to y. */
AMX_INLINE void begin_sums(const float *y, bool add)
{
    enum { LD = PANEL * sizeof(float), NEXT = STRIP * PANEL };
    if (add) {
        _tile_loadd(0, y, LD);
        _tile_loadd(1, y + LANES, LD);
        _tile_loadd(2, y + NEXT, LD);
        _tile_loadd(3, y + NEXT + LANES, LD);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}
AMX_INLINE void end_sums(float *y)
{
    enum { LD = PANEL * sizeof(float), NEXT = STRIP * PANEL };
    _tile_stored(0, y, LD);
    _tile_stored(1, y + LANES, LD);
    _tile_stored(2, y + NEXT, LD);
    _tile_stored(3, y + NEXT + LANES, LD);
}

/* Likewise of one strip, in tiles 0 and 1. */
AMX_INLINE void begin_strip(const float *y, bool add)
{
    enum { LD = PANEL * sizeof(float) };
    if (add) {
        _tile_loadd(0, y, LD);
        _tile_loadd(1, y + LANES, LD);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
}
AMX_INLINE void end_strip(float *y)
{
    enum { LD = PANEL * sizeof(float) };
    _tile_stored(0, y, LD);
    _tile_stored(1, y + LANES, LD);
}

/* What a block of a strip fetches, a part of it with each step. */
AMX_INLINE void fetch_part(const struct panels_lines *lines, int64_t step)
{
    const int64_t rows = PANELS_FETCH >> lines->shift;
    for (int64_t r = rows * step / BLOCK_STEPS; r < rows * (step + 1) / BLOCK_STEPS; r++)
        _mm_prefetch(lines->at + (size_t)r * lines->step, _MM_HINT_T1);
}

/* Leave of the processor and the system for tiles. */
bool amx_permitted(void);
