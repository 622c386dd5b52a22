/* worker/ops/cpu/amx_f32.c - products of f32 on AMX: see panels.h and amx.h.
 *
 * Each value is three bf16, high, middle and low, 24 bits in all, without loss; six of the nine products of the parts are made, in
 * f32 sums. What is left out, low by middle and smaller, is at most 2^-25 of a product, where f32 rounds by 2^-24. (Henry, Tang,
 * Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations, ARITH 2019.)
 *
 * Not finite an infinity gives a NaN. Parts below 2^-126 are zero.
 */
#include "worker/ops/cpu/panels.h"

#include "worker/ops/cpu/cpu.h"

#ifdef CPU_X86
#include "worker/ops/cpu/amx.h"

enum { HIGH, MIDDLE, LOW };

static size_t strip_bytes(int64_t K)
{
    return PARTS * sizeof(struct tile) * (size_t)steps_of(K);
}

static size_t panel_bytes(int64_t K)
{
    return HALVES * PARTS * sizeof(struct tile) * (size_t)steps_of(K);
}

AVX512 static void load_strips(void *strips, const float *x, int64_t ld, int64_t rows, int64_t K)
{
    struct tile *tile = strips;
    for (int64_t r = 0; r < rows; r += STRIP, tile += PARTS * steps_of(K))
        load_strip(tile, x + r * ld, ld, bl_min(STRIP, rows - r), K, PARTS);
}

AVX512 static void load_panels(void *panels, const void *w, enum bl_dtype dtype, int64_t ld,
                               bool transposed, int64_t columns, int64_t K)
{
    if (dtype == BL_F32)
        load_columns(panels, w, BL_F32, ld, transposed, columns, K, PARTS);
    else if (dtype == BL_F16)
        load_columns(panels, w, BL_F16, ld, transposed, columns, K, PARTS);
    else
        load_columns(panels, w, BL_BF16, ld, transposed, columns, K, PARTS);
}

/* -- products -- */

/* Between products: see amx.c. */
AMX_INLINE void pause_products(void)
{
    __asm__ volatile(".rept 8\n\tnop\n\t.endr");
}

/* Sums 0 to 3 += tiles 4 and 5 of x times 6 and 7 of the panel; then what the next product takes of x, of the panel, or of both. */
AMX_INLINE void multiply_then_x(const struct tile *x0, const struct tile *x1)
{
    _tile_dpbf16ps(0, 4, 6);
    pause_products();
    _tile_dpbf16ps(1, 4, 7);
    pause_products();
    _tile_loadd(4, x0, LINE);
    _tile_dpbf16ps(2, 5, 6);
    pause_products();
    _tile_dpbf16ps(3, 5, 7);
    pause_products();
    _tile_loadd(5, x1, LINE);
}
AMX_INLINE void multiply_then_panel(const struct tile *b)
{
    _tile_dpbf16ps(0, 4, 6);
    pause_products();
    _tile_dpbf16ps(2, 5, 6);
    pause_products();
    _tile_loadd(6, b, LINE);
    _tile_dpbf16ps(1, 4, 7);
    pause_products();
    _tile_dpbf16ps(3, 5, 7);
    pause_products();
    _tile_loadd(7, b + PARTS, LINE);
}
AMX_INLINE void multiply_then_both(const struct tile *x0, const struct tile *x1,
                                   const struct tile *b)
{
    _tile_dpbf16ps(0, 4, 6);
    pause_products();
    _tile_dpbf16ps(1, 4, 7);
    pause_products();
    _tile_loadd(4, x0, LINE);
    _tile_dpbf16ps(2, 5, 6);
    pause_products();
    _tile_loadd(6, b, LINE);
    _tile_dpbf16ps(3, 5, 7);
    pause_products();
    _tile_loadd(7, b + PARTS, LINE);
    _tile_loadd(5, x1, LINE);
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
    begin_sums(y, add);
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
        multiply_then_both(x0 + LOW, x1 + LOW, b + HIGH);
    }
    end_sums(y);
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
            _tile_loadd(4, x + pairs[i].x, LINE);
            _tile_loadd(6, b + pairs[i].panel, LINE);
            _tile_loadd(7, b + PARTS + pairs[i].panel, LINE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
    }
    end_strip(y);
}

AMX static void multiply(float *y, const void *strips, int64_t count, int64_t K, const void *panel,
                         int64_t first, int64_t end, struct panels_fetch *fetch)
{
    const int64_t all = steps_of(K), k = first * BLOCK_STEPS,
                  steps = bl_min(all, end * BLOCK_STEPS) - k, strip = PARTS * all;
    const struct tile *x = (const struct tile *)strips + PARTS * k;
    int64_t s = 0;
    _tile_loadconfig(&tile_config);
    for (; s + 2 <= count; s += 2)
        multiply_two(y + s * STRIP * PANEL, x + s * strip, x + (s + 1) * strip, panel, steps,
                     first > 0, fetch);
    if (s < count)
        multiply_one(y + s * STRIP * PANEL, x + s * strip, panel, steps, first > 0, fetch);
    _tile_release();
}

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
                                            .multiply = multiply};
    return amx_permitted() ? &form : NULL;
}

#else

const struct panels_form *amx_f32_form(void)
{
    return NULL;
}

#endif
