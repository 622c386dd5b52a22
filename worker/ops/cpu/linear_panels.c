/* worker/ops/cpu/linear_panels.c - linear layers by strips of x and panels of W (panels.h), which are made on the way: nothing is kept. */
#include "worker/ops/cpu/linear.h"

#include <omp.h>

#include "worker/ops/cpu/panels.h"
#include "worker/ops/cpu/tiles.h"

/* Strips of rows multiplied with a panel at a time: these, a block of the panel and y fit the L1 cache. */
enum { STRIPS = 6, PRODUCT_MAX = STRIPS * PANELS_STRIP_MAX * PANELS_PANEL_MAX };

/* K is taken in parts whose STRIPS strips are of at most so many bytes, and so many panels with them as leave room for these in
 * the L2 cache. So scratch memory is bounded too, whatever the vocabulary. */
enum { STRIPS_BYTES = 512 << 10, PANELS_BYTES = 1 << 20, PANELS_ONE_TILE = 8 };

/* A tile is `strips` strips and `panels` panels, which one thread loads: whole, or, with few rows, some blocks of
 * them at a time, which are multiplied with all rows while the cache holds them. These are as long along W's rows as
 * the cache allows. All are parts of K, values [k, k + inner). */
struct panel_tiles {
    const struct panels_form *form;
    bool few;
    int64_t strips, panels, blocks, strip_count, panel_count, count;
    int64_t k, inner;
};
enum { FEW_ROWS = 256, FEW_BYTES = 132 << 10 };

/* Panels are loaded again for each tile of rows, so rows are divided only where there would be too few tiles
 * for the threads. No tile changes a result. */
static struct panel_tiles panel_tiles_of(const struct cpu *cpu, const struct linear_product *p)
{
    const struct panels_form *form = p->w->form;
    const int64_t R = p->R, N = p->N;
    const int64_t strips = panels_strips(form, R), panels = bl_ceil_div(N, form->panel);
    const int64_t wanted = tiles_wanted(cpu), block = form->block;
    struct panel_tiles t = {.form = form, .few = R <= FEW_ROWS};
    t.inner = even_block(p->K, STRIPS_BYTES / (STRIPS * (int64_t)form->strip_bytes(block)) * block,
                         block);
    t.panels = t.few ? p->transposed ? 8 : 1
                     : bl_min(PANELS_ONE_TILE, PANELS_BYTES / (int64_t)form->panel_bytes(t.inner));
    t.blocks = bl_max(1, FEW_BYTES / (t.panels * (int64_t)form->panel_bytes(block)));
    t.panels = bl_max(1, bl_min(t.panels, panels / wanted));
    t.panel_count = bl_ceil_div(panels, t.panels);
    const int64_t most = t.few ? 1 : bl_ceil_div(strips, STRIPS);
    const int64_t parts = bl_min(bl_ceil_div(wanted, t.panel_count), most);
    t.strips = bl_ceil_div(strips, parts);
    t.strip_count = bl_ceil_div(strips, t.strips);
    t.count = t.panel_count * t.strip_count;
    return t;
}

/* `rows` rows from r0 on and the columns of a panel from n0 on are done. */
static void finish_panel(const struct linear_product *p, const float *product, int64_t panel,
                         int64_t r0, int64_t rows, int64_t n0)
{
    finish_rows(p, product, panel, r0, rows, n0, bl_min(panel, p->N - n0));
}

/* W from its element (n, k) of the product on: where, and the distance of its rows. */
static const char *matrix_rows_at(const struct linear_product *p, int64_t n, int64_t k)
{
    return matrix_at(p->w, p->transposed ? k * p->N + n : n * p->K + k);
}
static int64_t matrix_rows_ld(const struct linear_product *p)
{
    return p->transposed ? p->N : p->K;
}

/* The rows of y that come next. */
static struct panels_fetch fetch_y(const struct linear_product *p, int64_t panel, int64_t r0,
                                   int64_t rows, int64_t n0)
{
    return (struct panels_fetch){.at = (const char *)(p->y + r0 * p->N + n0),
                                 .step = (size_t)p->N * sizeof *p->y,
                                 .bytes = (size_t)panel * sizeof *p->y,
                                 .rows = rows,
                                 .shift = 4};
}

/* A tile, with its thread's panels and x's strips. */
static void multiply_tile(const struct linear_product *p, const struct panel_tiles *t, int64_t tile,
                          char *panels, const char *strips)
{
    float product[PRODUCT_MAX] __attribute__((aligned(64)));
    const struct panels_form *form = t->form;
    const int64_t first = tile % t->strip_count * t->strips,
                  end = bl_min(first + t->strips, panels_strips(form, p->R));
    const int64_t n_first = tile / t->strip_count * t->panels * form->panel,
                  n_end = bl_min(p->N, n_first + t->panels * form->panel);
    const size_t strip_bytes = form->strip_bytes(t->inner),
                 panel_bytes = form->panel_bytes(t->inner);
    form->load_panels(panels, matrix_rows_at(p, n_first, t->k), p->w->dtype, matrix_rows_ld(p),
                      p->transposed, n_end - n_first, t->inner);
    for (int64_t s = first; s < end; s += STRIPS)
        for (int64_t n = n_first; n < n_end; n += form->panel) {
            const int64_t count = bl_min(STRIPS, end - s), r0 = s * form->strip,
                          rows = bl_min(count * form->strip, p->R - r0);
            struct panels_fetch fetch = fetch_y(p, form->panel, r0, rows, n);
            form->multiply(product, strips + (size_t)s * strip_bytes, count, t->inner,
                           panels + (size_t)((n - n_first) / form->panel) * panel_bytes, 0,
                           panels_blocks(form, t->inner), &fetch);
            finish_panel(p, product, form->panel, r0, rows, n);
        }
}

/* W from k on for columns [n_first, n_end) and the tile's blocks, nothing where k is the part's end; spread over the products
 * of as many, though never more at once than leaves a way from the L2 cache to the L1 cache free. */
static struct panels_fetch fetch_blocks(const struct linear_product *p, const struct panel_tiles *t,
                                        int64_t n_first, int64_t n_end, int64_t k)
{
    const struct panels_form *form = t->form;
    const size_t size = p->w->dtype == BL_F32 ? 4 : 2;
    const int64_t inner = bl_min(t->blocks * form->block, t->k + t->inner - k),
                  columns = n_end - n_first;
    if (inner <= 0)
        return (struct panels_fetch){.at = (const char *)p->y};
    struct panels_fetch fetch = {.at = matrix_rows_at(p, n_first, k),
                                 .step = (size_t)matrix_rows_ld(p) * size,
                                 .bytes = (size_t)(p->transposed ? columns : inner) * size,
                                 .rows = p->transposed ? inner : columns,
                                 .shift = 1};
    const int64_t lines = fetch.rows * bl_ceil_div((int64_t)fetch.bytes, 64);
    const int64_t products = t->panels * t->strips * t->blocks;
    while (fetch.shift < PANELS_FETCH_SHIFT_MAX &&
           lines << (fetch.shift + 1) <= products * PANELS_FETCH)
        fetch.shift++;
    return fetch;
}

/* A tile of all rows; `mine`: y, panel after panel, then some blocks of the panels. While these are multiplied, the
 * next ones come from memory. */
static void multiply_blocks(const struct linear_product *p, const struct panel_tiles *t,
                            int64_t tile, char *mine, const char *strips)
{
    const struct panels_form *form = t->form;
    const int64_t n_first = tile * t->panels * form->panel,
                  n_end = bl_min(p->N, n_first + t->panels * form->panel);
    const int64_t panel_floats = t->strips * form->strip * form->panel;
    const size_t strip_bytes = form->strip_bytes(t->inner);
    float *products = (float *)mine;
    char *panels = mine + (size_t)(t->panels * panel_floats) * sizeof *products;
    for (int64_t b = 0; b < panels_blocks(form, t->inner); b += t->blocks) {
        const int64_t k = t->k + b * form->block,
                      inner = bl_min(t->blocks * form->block, t->k + t->inner - k);
        struct panels_fetch fetch = fetch_blocks(p, t, n_first, n_end, k + inner);
        form->load_panels(panels, matrix_rows_at(p, n_first, k), p->w->dtype, matrix_rows_ld(p),
                          p->transposed, n_end - n_first, inner);
        for (int64_t i = 0; n_first + i * form->panel < n_end; i++)
            for (int64_t s = 0; s < t->strips; s += STRIPS)
                form->multiply(products + i * panel_floats + s * form->strip * form->panel,
                               strips + (size_t)s * strip_bytes, bl_min(STRIPS, t->strips - s),
                               t->inner, panels + (size_t)i * form->panel_bytes(inner), b,
                               b + panels_blocks(form, inner), &fetch);
    }
    for (int64_t i = 0; n_first + i * form->panel < n_end; i++)
        finish_panel(p, products + i * panel_floats, form->panel, 0, p->R,
                     n_first + i * form->panel);
}

static size_t block_thread_bytes(const struct panel_tiles *t)
{
    const struct panels_form *form = t->form;
    const size_t y = (size_t)(t->strips * form->strip * form->panel) * sizeof(float);
    return (size_t)t->panels *
           (t->few ? y + form->panel_bytes(t->blocks * form->block) : form->panel_bytes(t->inner));
}

/* The product of a part of K: added to those before it, finished with the last. */
static struct linear_product part_of(const struct linear_product *p, const struct panel_tiles *t)
{
    struct linear_product part = *p;
    part.accumulate = p->accumulate || t->k > 0;
    if (t->k + t->inner < p->K) {
        part.bias = NULL;
        part.saved_pre = NULL;
        part.epilogue = OPS_NONE;
    }
    return part;
}

/* scratch: strips of all of x, then memory of each thread. */
static void multiply_part(struct cpu *cpu, const struct linear_product *p,
                          const struct panel_tiles *t, char *scratch)
{
    const struct panels_form *form = t->form;
    const int64_t strips = panels_strips(form, p->R);
    const size_t strip_bytes = form->strip_bytes(t->inner), thread_bytes = block_thread_bytes(t);
    char *mine = scratch + strip_bytes * (size_t)strips;
    const int threads = cpu_threads(cpu, work_of(p->R, p->N, t->inner));
#pragma omp parallel for num_threads(threads)
    for (int64_t s = 0; s < strips; s++)
        form->load_strips(scratch + (size_t)s * strip_bytes, p->x + s * form->strip * p->K + t->k,
                          p->K, bl_min(form->strip, p->R - s * form->strip), t->inner);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < t->count; i++)
        (t->few ? multiply_blocks : multiply_tile)(
            p, t, i, mine + (size_t)omp_get_thread_num() * thread_bytes, scratch);
}

void CPU_VARIANT(multiply_panels)(struct cpu *cpu, const struct linear_product *p)
{
    struct panel_tiles t = panel_tiles_of(cpu, p);
    const int64_t part = t.inner, strips = panels_strips(t.form, p->R);
    char *scratch = cpu_scratch(cpu, CPU_SCRATCH_INNER,
                                t.form->strip_bytes(part) * (size_t)strips +
                                    block_thread_bytes(&t) * (size_t)cpu->threads);
    if (!scratch || cpu->dry)
        return;
    for (t.k = 0; t.k < p->K; t.k += part) {
        t.inner = bl_min(part, p->K - t.k);
        const struct linear_product of_part = part_of(p, &t);
        multiply_part(cpu, &of_part, &t, scratch);
    }
}
