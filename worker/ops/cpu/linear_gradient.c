/* worker/ops/cpu/linear_gradient.c - gradients of a linear layer's parameters: d_W (N,K) += d_y^T x, d_b (N) += sum over rows of d_y.
 *
 * Tiles      as in linear.c, of f32 products at 155 to 180 GFLOP/s; large matrices are passed once, by few rows in f32, or, where
 *            other products are by panels, by these, along rows.
 */
#include <omp.h>
#include <string.h>

#include "worker/ops/cpu/linear.h"
#include "worker/ops/cpu/panels.h"
#include "worker/ops/cpu/product.h"
#include "worker/ops/cpu/tiles.h"

/* d_bias += column sums of d_y, by fixed row blocks. */
static void add_column_sums(struct cpu *cpu, float *d_bias, const float *d_y, int64_t R, int64_t N)
{
    const struct cpu_row_blocks blocks = cpu_row_blocks(R);
    float *partial =
        cpu_scratch(cpu, CPU_SCRATCH_INNER, (size_t)(blocks.count * N) * sizeof *partial);
    if (!partial || cpu->dry)
        return;
#pragma omp parallel for num_threads(cpu_threads(cpu, R *N))
    for (int64_t b = 0; b < blocks.count; b++) {
        float *restrict sum = partial + b * N;
        memset(sum, 0, (size_t)N * sizeof *sum);
        for (int64_t r = b * blocks.rows; r < bl_min(R, (b + 1) * blocks.rows); r++)
#pragma omp simd
            for (int64_t n = 0; n < N; n++)
                sum[n] += d_y[r * N + n];
    }
    for (int64_t b = 0; b < blocks.count; b++)
#pragma omp simd
        for (int64_t n = 0; n < N; n++)
            d_bias[n] += partial[b * N + n];
}

/* -- of a large matrix by few rows -- */

/* It waits for d_W's way from memory and back, so d_W is passed once, along its rows: ROWS of them at a time
 * for all columns. x is laid out in strips of columns for all threads, d_y by each. */
enum { FEW_ROWS_WEIGHT = 128, FEW_ROWS_ELEMENTS = 1 << 20, ROWS = 16, COLUMNS = WIDE * VECTOR };

static void gradient_rows(float *d_w, const float *d_y, const float *strips, float *mine, int64_t R,
                          int64_t N, int64_t K, int64_t n0)
{
    const int64_t rows = bl_min(ROWS, N - n0);
    for (int64_t r = 0; r < R; r++)
        memcpy(mine + r * ROWS, d_y + r * N + n0, (size_t)rows * sizeof *mine);
    for (int64_t k = 0; k < K; k += COLUMNS) {
        for (int64_t r = 0; r < rows; r++) /* what comes next */
            for (int64_t i = 0; i < COLUMNS; i += 16)
                __builtin_prefetch(d_w + (n0 + r) * K + bl_min(K - 1, k + COLUMNS + i), 1);
        product(&(struct product){.M = rows,
                                  .N = bl_min(COLUMNS, K - k),
                                  .K = R,
                                  .alpha = 1,
                                  .a = mine,
                                  .a_row = 1,
                                  .a_column = ROWS,
                                  .b = strips + k * R,
                                  .ld_b = COLUMNS,
                                  .y = d_w + n0 * K + k,
                                  .ld_y = K,
                                  .add = true});
    }
}

static void gradient_by_few_rows(struct cpu *cpu, float *d_w, const float *d_y, const float *x,
                                 int64_t R, int64_t N, int64_t K)
{
    const int64_t count = bl_ceil_div(K, COLUMNS);
    float *strips =
        cpu_scratch(cpu, CPU_SCRATCH_INNER,
                    (size_t)(R * (count * COLUMNS + cpu->threads * ROWS)) * sizeof *strips);
    if (!strips || cpu->dry)
        return;
    float *threads_rows = strips + count * COLUMNS * R;
    const int threads = cpu_threads(cpu, work_of(R, N, K));
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        for (int64_t r = 0; r < R; r++) {
            float *to = strips + (i * R + r) * COLUMNS;
            const int64_t columns = bl_min(COLUMNS, K - i * COLUMNS);
            memcpy(to, x + r * K + i * COLUMNS, (size_t)columns * sizeof *to);
            memset(to + columns, 0, (size_t)(COLUMNS - columns) * sizeof *to);
        }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t n = 0; n < N; n += ROWS)
        gradient_rows(d_w, d_y, strips, threads_rows + omp_get_thread_num() * ROWS * R, R, N, K, n);
}

/* -- of a large matrix by panels -- */

/* K of the product are the rows of x and d_y. x is laid out in panels for all threads; d_W is passed once, GRADIENT_ROWS
 * of its rows at a time, for which d_y is laid out in strips. */
enum {
    GRADIENT_STRIPS = 4,
    GRADIENT_ROWS_MAX = GRADIENT_STRIPS * PANELS_STRIP_MAX,
    GRADIENT_R_MIN = 32
};

struct panel_gradient {
    const struct panels_form *form;
    float *d_w;
    const float *d_y;
    const char *panels;
    int64_t R, N, K;
};

/* A thread's scratch: d_y's rows turned, and their strips. */
static size_t turned_bytes(const struct panels_form *form, int64_t R)
{
    return whole_lines((size_t)(GRADIENT_STRIPS * form->strip * padded(R)) * sizeof(float));
}
static size_t gradient_bytes(const struct panels_form *form, int64_t R)
{
    return turned_bytes(form, R) + GRADIENT_STRIPS * form->strip_bytes(R);
}

static void gradient_panel_rows(const struct panel_gradient *g, int64_t n0, char *mine)
{
    float product[GRADIENT_ROWS_MAX * PANELS_PANEL_MAX] __attribute__((aligned(64)));
    const struct panels_form *form = g->form;
    const int64_t R = g->R, K = g->K, ld = padded(R);
    const int64_t rows = bl_min(GRADIENT_STRIPS * form->strip, g->N - n0);
    float *d_y = (float *)mine;
    char *strips = mine + turned_bytes(form, R);
    pack_transposed(d_y, ld, g->d_y + n0, g->N, R, rows);
    form->load_strips(strips, d_y, ld, rows, R);
    for (int64_t k = 0; k < K; k += form->panel) {
        const int64_t columns = bl_min(form->panel, K - k);
        float *d_w = g->d_w + n0 * K + k;
        struct panels_fetch next = {.at = (const char *)(d_w + columns),
                                    .step = (size_t)K * sizeof *d_w,
                                    .bytes = (size_t)form->panel * sizeof *d_w,
                                    .rows = rows,
                                    .shift = 1};
        form->multiply(product, strips, panels_strips(form, rows), R,
                       g->panels + (size_t)(k / form->panel) * form->panel_bytes(R), 0,
                       panels_blocks(form, R), &next);
        for (int64_t r = 0; r < rows; r++)
            finish_row(d_w + r * K, product + r * form->panel, true, NULL, NULL, columns, OPS_NONE);
    }
}

static void gradient_by_panels(struct cpu *cpu, float *d_w, const float *d_y, const float *x,
                               int64_t R, int64_t N, int64_t K)
{
    enum { TOGETHER = 8 };
    const struct panels_form *form = cpu->form;
    const int64_t count = bl_ceil_div(K, form->panel), rows = GRADIENT_STRIPS * form->strip;
    const size_t panels_bytes = (size_t)count * form->panel_bytes(R),
                 mine = gradient_bytes(form, R);
    char *panels = cpu_scratch(cpu, CPU_SCRATCH_INNER, panels_bytes + mine * (size_t)cpu->threads);
    if (!panels || cpu->dry)
        return;
    const struct panel_gradient gradient = {form, d_w, d_y, panels, R, N, K};
    const int threads = cpu_threads(cpu, work_of(R, N, K));
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += TOGETHER)
        form->load_panels(panels + (size_t)i * form->panel_bytes(R), x + i * form->panel, BL_F32, K,
                          true, bl_min(TOGETHER * form->panel, K - i * form->panel), R);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t n = 0; n < N; n += rows)
        gradient_panel_rows(&gradient, n,
                            panels + panels_bytes + (size_t)omp_get_thread_num() * mine);
}

/* -- the operation -- */

static void linear_backward_weight(struct ops *self, float *d_w, float *d_bias, const act *d_y_,
                                   const act *x_, int64_t R, int64_t N, int64_t K)
{
    if (R == 0)
        return;
    struct cpu *cpu = cpu_of(self);
    const float *d_y = cpu_const_f32(d_y_), *x = cpu_const_f32(x_);
    if (d_bias)
        add_column_sums(cpu, d_bias, d_y, R, N);
    if (cpu_by_panels(cpu, N, K) && R >= GRADIENT_R_MIN) {
        gradient_by_panels(cpu, d_w, d_y, x, R, N, K);
        return;
    }
    if (R <= FEW_ROWS_WEIGHT && N * K >= FEW_ROWS_ELEMENTS) {
        gradient_by_few_rows(cpu, d_w, d_y, x, R, N, K);
        return;
    }
    if (cpu->dry)
        return;
    const struct tiles t = tiles_of(N, K);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t n0 = i % t.row_count * t.rows, k0 = i / t.row_count * t.columns;
        sgemm('T', 'N', bl_min(t.rows, N - n0), bl_min(t.columns, K - k0), R, d_y + n0, N, x + k0,
              K, 1, d_w + n0 * K + k0, K);
    }
}

void CPU_VARIANT(cpu_fill_linear_gradient)(struct ops *table)
{
    table->linear_backward_weight = linear_backward_weight;
}
