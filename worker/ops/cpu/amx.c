/* worker/ops/cpu/amx.c - products in bf16 on AMX: see panels.h and amx.h. Two strips by a panel keep four tiles of sums in registers.
 */
#include "worker/ops/cpu/panels.h"

#include "worker/ops/cpu/cpu.h"

#ifdef CPU_X86
#include <sys/syscall.h>
#include <unistd.h>

#include "worker/ops/cpu/amx_few.h"

static size_t strip_bytes(int64_t K)
{
    return sizeof(struct tile) * (size_t)steps_of(K);
}

size_t amx_panel_bytes(int64_t K)
{
    return HALVES * sizeof(struct tile) * (size_t)steps_of(K);
}

/* 32 values of a row from `count` f32. */
INLINE __m512i narrowed(const float *x, int64_t count)
{
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(lanes_of(count - LANES), x + LANES),
                                        _mm512_maskz_loadu_ps(lanes_of(count), x));
}

AVX512 static void load_strip(struct tile *tile, const float *x, int64_t ld, int64_t rows,
                              int64_t K)
{
    for (int64_t k = 0; k < K; k += STEP, tile++)
        for (int64_t r = 0; r < STRIP; r++)
            _mm512_store_si512(tile->values[r],
                               r < rows ? narrowed(x + r * ld + k, K - k) : _mm512_setzero_si512());
}

static void load_strips(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K)
{
    struct tile *tile = strips;
    for (int64_t r = 0; r < rows; r += STRIP, tile += steps_of(K))
        load_strip(tile, x + r * ld, ld, bl_min(STRIP, rows - r), K);
}

/* -- panels -- */

/* 32 values of a row of W, `count` of which are in it. */
INLINE __m512i row_values(const char *at, bool half, int64_t count)
{
    if (!half)
        return narrowed((const float *)at, count);
    const __mmask32 mask = count >= STEP ? 0xFFFFFFFF : count > 0 ? (1U << count) - 1 : 0;
    return _mm512_maskz_loadu_epi16(mask, at);
}

/* A tile of B = W^T from 16 rows of W, `rows` of which there are. */
INLINE void load_turned(struct tile *tile, const char *at, size_t step, bool half, int64_t rows,
                        int64_t count)
{
    __m512i pairs[LANES];
    for (int64_t n = 0; n < LANES; n++)
        pairs[n] =
            n < rows ? row_values(at + (size_t)n * step, half, count) : _mm512_setzero_si512();
    transpose_dwords(pairs);
    for (int i = 0; i < LANES; i++)
        _mm512_store_si512(tile->values[i], pairs[i]);
}

/* Both tiles of B = W from 32 rows of W, `rows` of which there are. */
INLINE void load_paired(struct tile *to, const char *at, size_t step, bool half, int64_t rows,
                        int64_t count)
{
    const __m512i ascending =
        _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5,
                         5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i low = _mm512_mask_add_epi16(ascending, 0xAAAAAAAA, ascending,
                                              _mm512_set1_epi16(32)),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t k = 0; k < STEP; k += 2) {
        const char *row = at + (size_t)k * step;
        const __m512i even = k < rows ? row_values(row, half, count) : _mm512_setzero_si512(),
                      odd = k + 1 < rows ? row_values(row + step, half, count)
                                         : _mm512_setzero_si512();
        _mm512_store_si512(to[0].values[k / 2], _mm512_permutex2var_epi16(even, low, odd));
        _mm512_store_si512(to[1].values[k / 2], _mm512_permutex2var_epi16(even, high, odd));
    }
}

INLINE void load_step(struct tile *to, const char *at, size_t step, enum bl_dtype dtype,
                      bool transposed, int64_t columns, int64_t inner)
{
    const bool half = dtype != BL_F32;
    if (transposed)
        load_paired(to, at, step, half, inner, columns);
    else
        for (int64_t h = 0; h < HALVES; h++)
            load_turned(to + h, at + (size_t)(h * LANES) * step, step, half, columns - h * LANES,
                        inner);
}

AVX512 void amx_load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld,
                            bool transposed, int64_t columns, int64_t K)
{
    if (dtype == BL_F32)
        load_steps(panels, w, BL_F32, ld, transposed, columns, K, 1, load_step);
    else
        load_steps(panels, w, BL_BF16, ld, transposed, columns, K, 1, load_step);
}

/* -- products -- */

/* y (2 STRIP, PANEL) = or += two strips times `steps` steps of a panel. A tile is loaded as soon as its predecessor has been
 * multiplied for the last time. */
AMX static void multiply_two(float *y, const struct tile *x0, const struct tile *x1,
                             const struct tile *b, int64_t steps, bool add,
                             struct panels_fetch *fetch)
{
    struct panels_lines lines[2] = {{0}};
    begin_strips(y, add);
    _tile_loadd(4, x0, LINE);
    _tile_loadd(6, b, LINE);
    _tile_loadd(7, b + 1, LINE);
    _tile_loadd(5, x1, LINE);
    for (int64_t k = 0; k < steps; k++) {
        const int64_t next = bl_min(k + 1, steps - 1);
        if (k % BLOCK_STEPS == 0)
            for (int i = 0; i < 2; i++)
                lines[i] = panels_next_lines(fetch);
        MULTIPLY_TILES(0, 4, 6);
        MULTIPLY_TILES(1, 4, 7);
        LOAD_TILE(4, x0 + next, LINE);
        fetch_part(&lines[0], k % BLOCK_STEPS);
        MULTIPLY_TILES(2, 5, 6);
        LOAD_TILE(6, b + HALVES * next, LINE);
        fetch_part(&lines[1], k % BLOCK_STEPS);
        MULTIPLY_TILES(3, 5, 7);
        LOAD_TILE(7, b + HALVES * next + 1, LINE);
        LOAD_TILE(5, x1 + next, LINE);
    }
    end_strips(y);
}

/* One strip. */
AMX static void multiply_one(float *y, const struct tile *x, const struct tile *b, int64_t steps,
                             bool add, struct panels_fetch *fetch)
{
    multiply_strip(y, x, b, steps, add, fetch, 1);
}

AMX static void multiply(float *y, const void *strips, int64_t count, int64_t K, const void *panel,
                         int64_t first, int64_t end, struct panels_fetch *fetch)
{
    multiply_strips(y, strips, count, K, panel, first, end, fetch, 1, multiply_two, multiply_one);
}

/* -- of few rows -- */

AVX512 static void load_few(void *few, const float *x, int64_t R, int64_t K)
{
    struct tile *tile = few;
    for (int64_t k = 0; k < K; k += STEP, tile++)
        load_turned(tile, (const char *)(x + k), (size_t)K * sizeof *x, false, R, K - k);
}

AMX static void multiply_few(float *y, int64_t ld, const void *x, int64_t R, const uint16_t *w,
                             int64_t columns, int64_t rest, int64_t K)
{
    multiply_few_rows(y, ld, x, R, w, columns, rest, K, 1);
}

/* The system gives its leave to all threads of the process: arch_prctl(2), ARCH_REQ_XCOMP_PERM of the tiles' data. */
bool amx_permitted(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return cpu_library_uses(dnnl_cpu_isa_avx512_core_amx) &&
           syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

const struct panels_form *amx_form(void)
{
    static const struct panels_form form = {.name = "AMX products",
                                            .strip = STRIP,
                                            .panel = PANEL,
                                            .block = BLOCK,
                                            .strip_bytes = strip_bytes,
                                            .panel_bytes = amx_panel_bytes,
                                            .load_strips = load_strips,
                                            .load_panels = amx_load_panels,
                                            .multiply = multiply,
                                            .multiply_few = multiply_few,
                                            .load_few = load_few};
    return amx_permitted() ? &form : NULL;
}

#else

const struct panels_form *amx_form(void)
{
    return NULL;
}

#endif
