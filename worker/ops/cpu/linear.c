/* worker/ops/cpu/linear.c - linear layers: y (R,N) = f(x (R,K) W^T + b),  W (N,K); backward d_x = d_y W.
 *
 * Here are products in f32. The result is cut into tiles, each one single-threaded sgemm over the inner dimension, or over
 * fixed blocks of it, one after the other, where W is laid out anew and the scratch for that is bounded. OpenMP spreads the
 * tiles. So an element's order of summation is the library's for a shape that R, N and K decide alone. W is as matrix.h keeps it:
 * f32, or widened on the way. Other forms: linear_few.c, linear_panels.c; gradients of parameters:
 * linear_gradient.c.
 *
 * Rate       one core of a Xeon whose f32 peak is 175 GFLOP/s: 145 to 165 forward, 150 to 175 backward. Kernels of our own
 *            (product.h) over matrices laid out in strips come as close forward, not backward.
 */
#include "worker/ops/cpu/linear.h"

#include <omp.h>

#include "worker/ops/cpu/pack.h"
#include "worker/ops/cpu/tiles.h"

/* -- B laid out for a column of tiles -- */

/* The library multiplies by rows of f32 in order. W^T, or W of another type, is laid out so once for all tiles of some columns, an
 * inner block at a time: the library would turn it for each tile. */
enum { INNER = 1024 };

/* `columns` rows of W from n0 on, elements [k0, k0 + inner): b has inner rows of padded(columns). */
static void turn(float *b, const struct ops_matrix *w, int64_t n0, int64_t columns, int64_t k0,
                 int64_t inner)
{
    enum { ROWS = VECTOR, BLOCK = 64 };
    if (w->dtype == BL_F32) {
        pack_transposed(b, padded(columns), (const float *)matrix_at(w, n0 * w->K + k0), w->K,
                        columns, inner);
        return;
    }
    for (int64_t n = 0; n < columns; n += ROWS)
        for (int64_t k = 0; k < inner; k += BLOCK) {
            float wide[ROWS * BLOCK];
            const int64_t rows = bl_min(ROWS, columns - n), count = bl_min(BLOCK, inner - k);
            for (int64_t i = 0; i < rows; i++)
                widen(wide + i * BLOCK, matrix_at(w, (n0 + n + i) * w->K + k0 + k), w->dtype,
                      count);
            pack_transposed(b + k * padded(columns) + n, padded(columns), wide, BLOCK, rows, count);
        }
}

/* Likewise for columns of W, rows [k0, k0 + inner). */
static void widen_rows(float *b, const struct ops_matrix *w, int64_t n0, int64_t columns,
                       int64_t k0, int64_t inner)
{
    for (int64_t k = 0; k < inner; k++)
        widen(b + k * padded(columns), matrix_at(w, (k0 + k) * w->K + n0), w->dtype, columns);
}

/* Tiles [first, end) of the product's rows in the columns from n0 on; b: the thread's scratch. */
static void multiply_column(const struct linear_product *p, const struct tiles *t, int64_t first,
                            int64_t end, int64_t n0, float *b)
{
    const int64_t N = p->N, K = p->K, columns = bl_min(t->columns, N - n0);
    for (int64_t k0 = 0; k0 < K; k0 += INNER) {
        const int64_t inner = bl_min(INNER, K - k0);
        (p->transposed ? widen_rows : turn)(b, p->w, n0, columns, k0, inner);
        for (int64_t r0 = first * t->rows; r0 < bl_min(end * t->rows, p->R); r0 += t->rows) {
            const int64_t rows = bl_min(t->rows, p->R - r0);
            float *y = p->y + r0 * N + n0;
            sgemm('N', 'N', rows, columns, inner, p->x + r0 * K + k0, K, b, padded(columns),
                  p->accumulate || k0 > 0, y, N);
            if (k0 + inner == K && !p->accumulate)
                finish_rows(p, y, N, r0, rows, n0, columns);
        }
    }
}

static void multiply_laid_out(struct cpu *cpu, const struct linear_product *p)
{
    const struct tiles t = tiles_of(p->R, p->N);
    /* Tiles below each other, as many as leave enough for the threads. */
    const int64_t parts = bl_min(t.row_count, bl_ceil_div(tiles_wanted(cpu), t.column_count)),
                  part = bl_ceil_div(t.row_count, parts);
    size_t stride;
    char *scratch = cpu_scratch_threads(
        cpu, CPU_SCRATCH_INNER, (size_t)(padded(t.columns) * bl_min(INNER, p->K)) * sizeof(float),
        &stride);
    if (!scratch || cpu->dry)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(p->R, p->N, p->K)))
    for (int64_t i = 0; i < t.column_count * parts; i++) {
        const int64_t first = i % parts * part;
        multiply_column(p, &t, first, first + part, i / parts * t.columns,
                        (float *)(scratch + (size_t)omp_get_thread_num() * stride));
    }
}

/* -- y = or += x W, W f32 as it lies: here x is d_y (R,K), y is d_x (R,N), and W (K,N) -- */

static void multiply_in_place(struct cpu *cpu, const struct linear_product *p)
{
    const int64_t R = p->R, N = p->N, K = p->K;
    const struct tiles t = tiles_of(R, N);
    if (cpu->dry)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        const int64_t r0 = i % t.row_count * t.rows, n0 = i / t.row_count * t.columns;
        sgemm('N', 'N', bl_min(t.rows, R - r0), bl_min(t.columns, N - n0), K, p->x + r0 * K, K,
              (const float *)matrix_at(p->w, n0), N, p->accumulate, p->y + r0 * N + n0, N);
    }
}

/* -- the choice -- */

static void multiply(struct ops *self, const struct linear_product *p)
{
    struct cpu *cpu = cpu_of(self);
    if (p->R == 0)
        return;
    if (CPU_VARIANT(is_few)(p))
        CPU_VARIANT(multiply_few)(cpu, p);
    else if (p->w->form)
        CPU_VARIANT(multiply_panels)(cpu, p);
    else if (p->transposed && p->w->dtype == BL_F32)
        multiply_in_place(cpu, p);
    else
        multiply_laid_out(cpu, p);
}

static void linear_forward(struct ops *self, act *y, act *saved_pre, const act *x,
                           const struct ops_matrix *w, const float *bias, int64_t R,
                           enum ops_epilogue epilogue)
{
    multiply(self, &(struct linear_product){.w = w,
                                            .y = cpu_f32(y),
                                            .saved_pre = cpu_f32(saved_pre),
                                            .x = cpu_const_f32(x),
                                            .bias = bias,
                                            .R = R,
                                            .N = w->N,
                                            .K = w->K,
                                            .epilogue = epilogue});
}

static void linear_backward_input(struct ops *self, act *d_x, const act *d_y,
                                  const struct ops_matrix *w, int64_t R, bool accumulate)
{
    multiply(self, &(struct linear_product){.w = w,
                                            .transposed = true,
                                            .y = cpu_f32(d_x),
                                            .x = cpu_const_f32(d_y),
                                            .R = R,
                                            .N = w->K,
                                            .K = w->N,
                                            .accumulate = accumulate});
}

static void linear_add(struct ops *self, act *y, const act *base, const act *x,
                       const struct ops_matrix *w, const float *bias, int64_t R)
{
    self->linear_forward(self, y, NULL, x, w, bias, R, OPS_NONE);
    self->add(self, y, y, base, R * w->N);
}

void CPU_VARIANT(cpu_fill_linear)(struct ops *table)
{
    table->linear_forward = linear_forward;
    table->linear_add = linear_add;
    table->linear_backward_input = linear_backward_input;
}
