/* worker/ops/cpu/bfp.c - products in block floating point, for processors whose 16-bit integer products are twice as fast as
 * their f32 ones (AVX-512 VNNI): see panels.h.
 *
 * Along K, each row of x and each column of B is cut into blocks of BLOCK values. A block is integers of
 * 12 bits and a sign and one f32 scale, its largest magnitude / 4095. Products of two blocks are summed
 * exactly in int32 (4095^2 * 128 < 2^31), scaled, and added in f32 in the order of the blocks.
 *
 * Error      of a value at most 1/8190 of its block's largest. bf16 rounds each value by up to 1/512
 *            of itself, the largest included: for normally distributed values the products here are six
 *            times as exact as bf16's, and with one huge value in a block still as exact.
 * Not finite a block with an infinity or a NaN has the scale NaN. Blocks below 2^-100 are zero.
 *
 * A strip's block is STRIP scales and as many rows of 64 pairs of values; a panel's block is PANEL
 * scales and 64 rows of PANEL pairs, so that vpdpwssd takes a pair of x, repeated, and pairs of 16 columns.
 *
 * Rate       one core of a Xeon without AMX (f32 peak 170 GFLOP/s, vpdpwssd's 360), beside other work: the
 *            product of 48 x 48 tiles 260 to 310 GFLOP/s.
 */
#include "worker/ops/cpu/panels.h"

#include <string.h>

#include "worker/ops/cpu/cpu.h"
#include "worker/ops/cpu/functions.h"

enum { BLOCK = 128, STRIP = 8, PANEL = 48 };
enum { PAIRS = BLOCK / 2, TOP = 4095, LANES = 16, VECTORS = PANEL / LANES };

struct strip_block {
    float scale[16]; /* STRIP of them; a cache line */
    int32_t pairs[STRIP][PAIRS];
};

struct panel_block {
    float scale[PANEL];
    int32_t pairs[PAIRS][PANEL];
};

#ifdef CPU_X86
#include "worker/ops/cpu/transpose.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE AVX512 static inline __attribute__((always_inline))

static int64_t blocks_of(int64_t K)
{
    return bl_ceil_div(K, BLOCK);
}

static size_t strip_bytes(int64_t K)
{
    return sizeof(struct strip_block) * (size_t)blocks_of(K);
}

static size_t panel_bytes(int64_t K)
{
    return sizeof(struct panel_block) * (size_t)blocks_of(K);
}

/* -- values to integers -- */

/* From the largest magnitudes' bits: scales, and what values are multiplied by. As integers, the bits of
 * infinities and NaNs are the largest. */
INLINE __m512 scales_of(__m512i bits, __m512 *ret_inverse)
{
    const __m512 most = _mm512_castsi512_ps(bits), top = _mm512_set1_ps(TOP);
    const __mmask16 zero = _mm512_cmp_ps_mask(most, _mm512_set1_ps(0x1p-100f), _CMP_LT_OQ);
    const __mmask16 bad = _mm512_cmpgt_epi32_mask(bits, _mm512_set1_epi32(0x7F7FFFFF));
    *ret_inverse = _mm512_maskz_div_ps((__mmask16)~zero, top, most);
    const __m512 scale = _mm512_maskz_mul_ps((__mmask16)~zero, most, _mm512_set1_ps(1.0f / TOP));
    return _mm512_mask_mov_ps(scale, bad, _mm512_set1_ps(NAN));
}

INLINE __m512i magnitude(__m512 x)
{
    return _mm512_castps_si512(_mm512_abs_ps(x));
}

/* x inverse rounded to the nearest integer, ties to even: in the low 16 bits, which is all of a float's fraction that
 * adding 1.5 2^23 leaves room for. */
INLINE __m512i rounded(__m512 x, __m512 inverse)
{
    return _mm512_castps_si512(_mm512_fmadd_ps(x, inverse, _mm512_set1_ps(0x1.8p23f)));
}

INLINE __m512i integers(__m512 x, __m512 inverse)
{
    return _mm512_sub_epi32(rounded(x, inverse), _mm512_castps_si512(_mm512_set1_ps(0x1.8p23f)));
}

/* 32 consecutive integers as 16 pairs */
INLINE __m512i pairs_of(__m512i low, __m512i high)
{
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    return _mm512_permutexvar_epi64(order, _mm512_packs_epi32(low, high));
}

/* Pairs of the low halves of two vectors */
INLINE __m512i interleaved(__m512i low, __m512i high)
{
    return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}

/* The even ones of 32 bf16, and the odd ones. */
INLINE __m512 even_of(__m512i both)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
}
INLINE __m512 odd_of(__m512i both)
{
    return _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xFFFF0000)));
}

/* One strip. */
AVX512 static void load_strip(void *strip, const float *x, int64_t ld, int64_t rows, int64_t K)
{
    struct strip_block *block = strip;
    for (int64_t k0 = 0; k0 < K; k0 += BLOCK, block++) {
        float most[LANES] = {0};
        for (int64_t r = 0; r < rows; r++) {
            __m512i bits = _mm512_setzero_si512();
            for (int64_t k = k0; k < bl_min(K, k0 + BLOCK); k += LANES)
                bits = _mm512_max_epi32(
                    bits, magnitude(_mm512_maskz_loadu_ps(lanes_of(K - k), x + r * ld + k)));
            most[r] = bits_to_f32((uint32_t)_mm512_reduce_max_epi32(bits));
        }
        __m512 inverse;
        _mm512_storeu_ps(block->scale, scales_of(_mm512_loadu_si512(most), &inverse));
        _mm512_storeu_ps(most, inverse);
        for (int64_t r = 0; r < STRIP; r++)
            for (int64_t k = k0; k < bl_min(K, k0 + BLOCK); k += 2 * LANES) {
                __m512i both[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
                for (int i = 0; r < rows && i < 2; i++)
                    both[i] = integers(_mm512_maskz_loadu_ps(lanes_of(K - k - i * LANES),
                                                             x + r * ld + k + i * LANES),
                                       _mm512_set1_ps(most[r]));
                _mm512_storeu_si512(&block->pairs[r][(k - k0) / 2], pairs_of(both[0], both[1]));
            }
    }
}

static void load_strips(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K)
{
    char *strip = strips;
    for (int64_t r = 0; r < rows; r += STRIP, strip += strip_bytes(K))
        load_strip(strip, x + r * ld, ld, bl_min(STRIP, rows - r), K);
}

/* -- panels: B = W^T -- */

enum { HALVES = 2 * LANES /* in a vector */, ROW_VECTORS = BLOCK / LANES };

/* A row of a block, `half`: bf16, else f32, to `copy`; returns its largest magnitudes' bits as of f32. */
INLINE __m512i copy_row(__m512i *copy, const char *row, bool half)
{
    __m512i most = _mm512_setzero_si512();
    for (int v = 0; v < ROW_VECTORS / (half ? 2 : 1); v++) {
        copy[v] = _mm512_loadu_si512(row + v * (int64_t)sizeof *copy);
        if (half)
            most = _mm512_max_epu16(most, _mm512_and_si512(copy[v], _mm512_set1_epi16(0x7FFF)));
        else
            most = _mm512_max_epi32(most, magnitude(_mm512_castsi512_ps(copy[v])));
    }
    return half ? _mm512_max_epi32(_mm512_castps_si512(even_of(most)),
                                   _mm512_castps_si512(odd_of(most)))
                : most;
}

/* Columns [c, c + 16) of a panel's block, from 16 rows of W that are `step` bytes apart. They are copied once, since rows
 * that are whole pages apart share few lines of the L1 cache. */
INLINE void load_columns(struct panel_block *block, int c, const char *rows, size_t step, bool half)
{
    __m512i copy[LANES][ROW_VECTORS], most[LANES];
    __m512 inverses;
    float inverse[LANES];
    for (size_t n = 0; n < LANES; n++)
        most[n] = copy_row(copy[n], rows + n * step, half);
    transpose_dwords(most);
    for (int count = LANES / 2; count > 0; count /= 2)
        for (int i = 0; i < count; i++)
            most[i] = _mm512_max_epi32(most[i], most[i + count]);
    _mm512_storeu_ps(block->scale + c, scales_of(most[0], &inverses));
    _mm512_storeu_ps(inverse, inverses);
    for (int v = 0; v < BLOCK / HALVES; v++) {
        __m512i pairs[LANES];
        for (int n = 0; n < LANES; n++) {
            const __m512 factor = _mm512_set1_ps(inverse[n]);
            const __m512i *x = half ? &copy[n][v] : &copy[n][2 * v];
            pairs[n] = half ? interleaved(rounded(even_of(*x), factor), rounded(odd_of(*x), factor))
                            : pairs_of(integers(_mm512_castsi512_ps(x[0]), factor),
                                       integers(_mm512_castsi512_ps(x[1]), factor));
        }
        transpose_dwords(pairs);
        for (int i = 0; i < LANES; i++)
            _mm512_storeu_si512(&block->pairs[v * LANES + i][c], pairs[i]);
    }
}

/* Widened values of an edge, or of a type that is neither f32 nor bf16; zeros around them. */
static void widen_rows(float *y, int64_t ld_y, const void *w, enum bl_dtype dtype, int64_t ld,
                       int64_t rows, int64_t count)
{
    for (int64_t r = 0; r < rows; r++) {
        if (dtype == BL_F32) {
            memcpy(y + r * ld_y, (const float *)w + r * ld, (size_t)count * sizeof *y);
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            const uint16_t half = ((const uint16_t *)w)[r * ld + i];
            y[r * ld_y + i] = dtype == BL_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
        }
    }
}

static const char *element(const void *w, enum bl_dtype dtype, int64_t index)
{
    return (const char *)w + index * (dtype == BL_F32 ? 4 : 2);
}

AVX512 static void load_rows(struct panel_block *block, const void *w, enum bl_dtype dtype,
                             int64_t ld, int64_t columns, int64_t count)
{
    for (int c = 0; c < PANEL; c += LANES) {
        const char *at = element(w, dtype, c * ld);
        const bool whole = columns - c >= LANES && count == BLOCK;
        if (whole && dtype == BL_BF16) {
            load_columns(block, c, at, (size_t)ld * 2, true);
        } else if (whole && dtype == BL_F32) {
            load_columns(block, c, at, (size_t)ld * 4, false);
        } else {
            float wide[LANES * BLOCK] = {0};
            const int64_t rows = bl_max(0, bl_min(LANES, columns - c));
            widen_rows(wide, BLOCK, at, dtype, ld, rows, count);
            load_columns(block, c, (const char *)wide, BLOCK * sizeof *wide, false);
        }
    }
}

/* -- panels: B = W -- */

/* So many panels are loaded at a time, along W's rows. */
enum { TOGETHER = 8 };

/* 16 values from bytes on. */
INLINE __m512 read_columns(const char *at, bool half)
{
    if (!half)
        return _mm512_loadu_ps(at);
    const __m256i values = _mm256_loadu_si256((const __m256i *)at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

/* The bits of the largest magnitudes of 16 columns in 4 rows. */
INLINE __m512i most_of_rows(const char *at, size_t step, bool half)
{
    if (!half) {
        __m512i most = _mm512_setzero_si512();
        for (size_t r = 0; r < 4; r++)
            most = _mm512_max_epi32(most, magnitude(_mm512_loadu_ps(at + r * step)));
        return most;
    }
    __m256i most = _mm256_setzero_si256();
    for (size_t r = 0; r < 4; r++)
        most = _mm256_max_epu16(
            most, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(at + r * step)),
                                   _mm256_set1_epi16(0x7FFF)));
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(most), 16);
}

/* A block of `panels` whole panels, `blocks` blocks apart, from `count` rows, a multiple of 4, `step` bytes apart. */
INLINE void load_blocks(struct panel_block *to, int64_t blocks, int panels, const char *rows,
                        size_t step, size_t count, bool half)
{
    const int vectors = panels * VECTORS, bytes = LANES * (half ? 2 : 4);
    __m512i most[TOGETHER * VECTORS];
    __m512 inverse[TOGETHER * VECTORS];
    for (int v = 0; v < vectors; v++)
        most[v] = _mm512_setzero_si512();
    for (size_t k = 0; k < count; k += 4)
        for (int v = 0; v < vectors; v++)
            most[v] =
                _mm512_max_epi32(most[v], most_of_rows(rows + k * step + v * bytes, step, half));
    for (int v = 0; v < vectors; v++)
        _mm512_storeu_ps(to[v / VECTORS * blocks].scale + v % VECTORS * LANES,
                         scales_of(most[v], &inverse[v]));
    for (size_t k = 0; k < count; k += 2)
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < VECTORS; v++) {
                const char *at = rows + k * step + (p * VECTORS + v) * bytes;
                const __m512 factor = inverse[p * VECTORS + v];
                const __m512i even = rounded(read_columns(at, half), factor),
                              odd = rounded(read_columns(at + step, half), factor);
                _mm512_storeu_si512(&to[p * blocks].pairs[k / 2][v * LANES],
                                    interleaved(even, odd));
            }
}

/* `columns` columns of a block, from `count` rows of W. */
AVX512 static void load_transposed(struct panel_block *to, int64_t blocks, const void *w,
                                   enum bl_dtype dtype, int64_t ld, int64_t columns, int64_t count)
{
    for (int64_t c = 0, width; c < columns; c += width, to += width / PANEL * blocks) {
        const int panels = (int)bl_min(TOGETHER, (columns - c) / PANEL);
        const void *at = element(w, dtype, c);
        width = bl_max(1, panels) * PANEL;
        if (panels && count % 4 == 0 && dtype == BL_BF16) {
            load_blocks(to, blocks, panels, at, (size_t)ld * 2, (size_t)count, true);
        } else if (panels && count % 4 == 0 && dtype == BL_F32) {
            load_blocks(to, blocks, panels, at, (size_t)ld * 4, (size_t)count, false);
        } else {
            float wide[BLOCK * PANEL] = {0};
            width = PANEL;
            widen_rows(wide, PANEL, at, dtype, ld, count, bl_min(PANEL, columns - c));
            load_blocks(to, blocks, 1, (const char *)wide, PANEL * sizeof *wide, BLOCK, false);
        }
    }
}

/* Into the L2 cache: hardware follows no such many rows by itself. */
AVX512 static void prefetch(const char *at, size_t step, int64_t rows, size_t bytes)
{
    for (int64_t r = 0; r < rows; r++, at += step)
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch(at + i, _MM_HINT_T1);
}

static void load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld,
                        bool transposed, int64_t columns, int64_t K)
{
    const int64_t blocks = blocks_of(K);
    const size_t size = dtype == BL_F32 ? 4 : 2;
    struct panel_block *block = panels;
    /* All panels' part of a block at a time: one row of W is one page, or more. */
    for (int64_t k = 0; k < K; k += BLOCK, block++) {
        const int64_t inner = bl_min(BLOCK, K - k), next = bl_min(BLOCK, K - k - BLOCK);
        if (transposed) {
            if (next > 0)
                prefetch(element(w, dtype, (k + BLOCK) * ld), (size_t)ld * size, next,
                         (size_t)columns * size);
            load_transposed(block, blocks, element(w, dtype, k * ld), dtype, ld, columns, inner);
            continue;
        }
        for (int64_t c = 0; c < columns; c += PANEL) {
            const int64_t width = bl_min(PANEL, columns - c);
            if (next > 0)
                prefetch(element(w, dtype, c * ld + k + BLOCK), (size_t)ld * size, width,
                         (size_t)next * size);
            load_rows(block + c / PANEL * blocks, element(w, dtype, c * ld + k), dtype, ld, width,
                      inner);
        }
    }
}

/* -- products -- */

/* y (STRIP, PANEL) = or += x b over `pairs` pairs: their 24 sums are registers for all of them. The
 * instruction by hand, since compilers copy what the intrinsic adds to. `next` is what will be x later: strips
 * come from beyond the L2 cache, and not in an order that hardware foresees. */
INLINE void multiply_block(float *y, const struct strip_block *x, const struct panel_block *b,
                           int64_t pairs, bool add, const struct strip_block *next,
                           struct panels_lines lines)
{
    const __mmask16 added = add ? 0xFFFF : 0;
    __m512i sum[STRIP][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < STRIP; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = _mm512_setzero_si512();
    for (int64_t k = 0; k < pairs; k++) {
        __m512i columns[VECTORS];
        _mm_prefetch((const char *)next + k * (int64_t)(sizeof *next / PAIRS), _MM_HINT_T0);
        _mm_prefetch(lines.at + (size_t)(k >> lines.shift) * lines.step, _MM_HINT_T1);
        for (int v = 0; v < VECTORS; v++)
            columns[v] = _mm512_loadu_si512(&b->pairs[k][v * LANES]);
#pragma GCC unroll 8
        for (int r = 0; r < STRIP; r++) {
            const __m512i row = _mm512_set1_epi32(x->pairs[r][k]);
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; v++)
                __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[r][v]) : "v"(row), "v"(columns[v]));
        }
    }
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) {
        const __m512 scale = _mm512_loadu_ps(b->scale + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < STRIP; r++) {
            float *at = y + r * PANEL + v * LANES;
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][v]), scale);
            _mm512_storeu_ps(at, _mm512_fmadd_ps(scaled, _mm512_set1_ps(x->scale[r]),
                                                 _mm512_maskz_loadu_ps(added, at)));
        }
    }
}

AVX512 static void multiply(float *y, const void *strips, int64_t count, int64_t K,
                            const void *panel, int64_t first, int64_t end,
                            struct panels_fetch *fetch)
{
    const int64_t blocks = blocks_of(K);
    const struct strip_block *x = strips;
    const struct panel_block *b = panel;
    for (int64_t k = first; k < end; k++)
        for (int64_t s = 0; s < count; s++)
            multiply_block(y + s * STRIP * PANEL, x + s * blocks + k, b + k - first,
                           bl_min(PAIRS, bl_ceil_div(K - k * BLOCK, 2)), k > 0,
                           k + 1 < blocks ? x + s * blocks + k + 1 : x + (s + count) * blocks,
                           panels_next_lines(fetch));
}

const struct panels_form *bfp_form(void)
{
    static const struct panels_form form = {.name = "block products",
                                            .strip = STRIP,
                                            .panel = PANEL,
                                            .block = BLOCK,
                                            .strip_bytes = strip_bytes,
                                            .panel_bytes = panel_bytes,
                                            .load_strips = load_strips,
                                            .load_panels = load_panels,
                                            .multiply = multiply};
    return cpu_library_uses(dnnl_cpu_isa_avx512_core_vnni) ? &form : NULL;
}

#else

const struct panels_form *bfp_form(void)
{
    return NULL;
}

#endif
