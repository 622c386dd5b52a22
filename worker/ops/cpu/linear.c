/* worker/ops/cpu/linear.c - linear layers: y (R,N) = f(x (R,K) W^T + b),  W (N,K); backward d_x = d_y W.
 *
 * Here are products in f32. The result is cut into tiles, each one single-threaded sgemm over the whole inner dimension (a fixed
 * number of them, one after the other, where W has to be widened and its scratch is bounded). OpenMP spreads the tiles. So an
 * element's order of summation is the library's for a shape that R, N and K decide alone. W as matrix.h keeps it: f32, or widened
 * tile by tile into a thread's scratch. Other forms: linear_few.c, linear_blocks.c, linear_packed.c; gradients of
 * parameters: linear_gradient.c.
 *
 * Rate       140 to 190 GFLOP/s. Larger tiles, and matrices packed as for bf16, were measured too and are no faster.
 */
#include "worker/ops/cpu/linear.h"

#include <omp.h>

#include "worker/ops/cpu/tiles.h"

/* A thread's scratch for W's part of a tile, `elements` widened; *stride from one thread's to the next. NULL with *stride 0: W is f32.
 * NULL otherwise: out of memory, which is recorded. */
static char *take_wide(struct cpu *cpu, const struct ops_matrix *w, int64_t elements,
                       size_t *stride)
{
    *stride = 0;
    if (w->dtype == BL_F32)
        return NULL;
    return cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, (size_t)elements * sizeof(float), stride);
}

static float *wide_of_thread(char *scratch, size_t stride)
{
    return (float *)(scratch + (size_t)omp_get_thread_num() * stride);
}

/* y = x W^T */
static void multiply_f32(struct cpu *cpu, const struct linear_product *p)
{
    const struct ops_matrix *w = p->w;
    const int64_t R = p->R, N = p->N, K = p->K;
    const struct tiles t = tiles_of(R, N, w->dtype != BL_F32);
    size_t stride;
    char *scratch = take_wide(cpu, w, t.columns * K, &stride);
    if (cpu->dry || (stride && !scratch))
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t r0 = i % t.row_count * t.rows, n0 = i / t.row_count * t.columns;
        int64_t rows = bl_min(t.rows, R - r0), columns = bl_min(t.columns, N - n0);
        const float *b = (const float *)matrix_at(w, n0 * K);
        if (stride) {
            float *wide = wide_of_thread(scratch, stride);
            widen(wide, matrix_at(w, n0 * K), w->dtype, columns * K);
            b = wide;
        }
        sgemm('N', 'T', rows, columns, K, p->x + r0 * K, K, b, K, 0, p->y + r0 * N + n0, N);
        finish_rows(p, p->y + r0 * N + n0, N, r0, rows, n0, columns);
    }
}

enum { WIDE_ROWS = 2048 }; /* rows of W widened at a time: bounds the scratch */

/* y = or += x W: here x is d_y (R,K), y is d_x (R,N), and W (K,N). */
static void multiply_f32_transposed(struct cpu *cpu, const struct linear_product *p)
{
    const struct ops_matrix *w = p->w;
    const int64_t R = p->R, N = p->N, K = p->K;
    const struct tiles t = tiles_of(R, N, w->dtype != BL_F32);
    size_t stride;
    char *scratch = take_wide(cpu, w, bl_min(K, WIDE_ROWS) * t.columns, &stride);
    if (cpu->dry || (stride && !scratch))
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(R, N, K)))
    for (int64_t i = 0; i < t.count; i++) {
        int64_t r0 = i % t.row_count * t.rows, n0 = i / t.row_count * t.columns;
        int64_t rows = bl_min(t.rows, R - r0), columns = bl_min(t.columns, N - n0);
        float *y = p->y + r0 * N + n0;
        if (!stride) {
            sgemm('N', 'N', rows, columns, K, p->x + r0 * K, K, (const float *)matrix_at(w, n0), N,
                  p->accumulate, y, N);
            continue;
        }
        float *wide = wide_of_thread(scratch, stride);
        for (int64_t k0 = 0; k0 < K; k0 += WIDE_ROWS) {
            int64_t inner = bl_min(WIDE_ROWS, K - k0);
            for (int64_t k = 0; k < inner; k++)
                widen(wide + k * columns, matrix_at(w, (k0 + k) * N + n0), w->dtype, columns);
            sgemm('N', 'N', rows, columns, inner, p->x + r0 * K + k0, K, wide, columns,
                  p->accumulate || k0 > 0, y, N);
        }
    }
}

/* A product of so few rows waits for W, which the library, or blocks, would first lay out for many. */
static bool is_few(const struct linear_product *p)
{
    enum { FEW_ROWS = 8 };
    return !p->transposed && p->R <= FEW_ROWS && (p->w->dtype == BL_F32 || p->w->dtype == BL_BF16);
}

static void multiply(struct ops *self, const struct linear_product *p)
{
    struct cpu *cpu = cpu_of(self);
    if (p->R == 0)
        return;
    if (p->w->packing)
        CPU_VARIANT(multiply_packed)(cpu, p);
    else if (is_few(p))
        CPU_VARIANT(multiply_few)(cpu, p);
    else if (p->w->blocks)
        CPU_VARIANT(multiply_blocks)(cpu, p);
    else if (p->transposed)
        multiply_f32_transposed(cpu, p);
    else
        multiply_f32(cpu, p);
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
