/* worker/ops/cpu/affine.c - y = w (x + s[r] c) + s[r] b,  rows of (R,D), one b and one c for each group of
 * rows (ops.h).
 *
 * Backward   d_x = w d_y,  d_s[r] = <d_y, w c + b>,  d_w = sum_r (x + s[r] c) d_y,
 *            d_b = sum over b's rows of s[r] d_y.
 * Order      one thread per row; parameter gradients by fixed blocks of columns, each over blocks of rows in
 *            order, which are summed by themselves.
 */
#include "worker/ops/cpu/cpu.h"

enum { ROWS = 64, COLUMNS = 64 }; /* of a block of parameter gradients */

static const float *bias_of(const struct ops_affine *a, int64_t r, int64_t D)
{
    return a->bias + r / a->period % a->G * D;
}

static const float *center_of(const struct ops_affine *a, int64_t r, int64_t D)
{
    return a->center + r / a->center_rows * D;
}

static void affine_forward(struct ops *self, act *y_, const act *x_, const struct ops_affine *a,
                           int64_t R, int64_t D)
{
    float *y = cpu_f32(y_);
    const float *x = cpu_const_f32(x_), *weight = a->weight;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D))
    for (int64_t r = 0; r < R; r++) {
        float *y_r = y + r * D;
        const float *x_r = x + r * D, *bias = a->bias ? bias_of(a, r, D) : NULL;
        const float shift = bias ? a->shift[r] : 0;
        if (a->center) {
            const float *center = center_of(a, r, D);
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                y_r[i] = weight[i] * (x_r[i] + shift * center[i]) + shift * bias[i];
        } else if (weight && bias)
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                y_r[i] = weight[i] * x_r[i] + shift * bias[i];
        else if (weight)
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                y_r[i] = weight[i] * x_r[i];
        else
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                y_r[i] = x_r[i] + shift * bias[i];
    }
}

/* What rows [r, end), all with one bias, add to `count` columns of the parameters' gradients. Pointers are
 * to the first of these columns. */
static void add_rows(float *d_weight, float *d_bias, const float *d_y, const float *x,
                     const struct ops_affine *a, int64_t r, int64_t end, int64_t first, int64_t D,
                     int64_t count)
{
    float sum_w[COLUMNS] = {0}, sum_b[COLUMNS] = {0};
    for (; r < end; r++) {
        const float *d_y_r = d_y + r * D, *x_r = x ? x + r * D : NULL;
        const float shift = a->shift ? a->shift[r] : 0;
        if (d_weight && a->center) {
            const float *center = center_of(a, r, D) + first;
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                sum_w[i] += (x_r[i] + shift * center[i]) * d_y_r[i];
        } else if (d_weight)
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                sum_w[i] += x_r[i] * d_y_r[i];
        if (d_bias)
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                sum_b[i] += shift * d_y_r[i];
    }
    for (int64_t i = 0; i < count; i++) {
        if (d_weight)
            d_weight[i] += sum_w[i];
        if (d_bias)
            d_bias[i] += sum_b[i];
    }
}

/* Columns [first, end) of the parameters' gradients. */
static void parameter_columns(float *d_weight, float *d_bias, const float *d_y, const float *x,
                              const struct ops_affine *a, int64_t R, int64_t D, int64_t first,
                              int64_t end)
{
    for (int64_t r = 0, last; r < R; r = last) {
        last = bl_min(R, r + ROWS);
        if (d_bias && a->G > 1)
            last = bl_min(last, (r / a->period + 1) * a->period);
        add_rows(d_weight ? d_weight + first : NULL,
                 d_bias ? d_bias + r / a->period % a->G * D + first : NULL, d_y + first,
                 x ? x + first : NULL, a, r, last, first, D, end - first);
    }
}

static void affine_backward(struct ops *self, act *d_x_, float *d_shift, float *d_weight,
                            float *d_bias, const act *d_y_, const act *x_,
                            const struct ops_affine *a, int64_t R, int64_t D, bool accumulate_shift)
{
    struct cpu *cpu = cpu_of(self);
    float *d_x = cpu_f32(d_x_);
    const float *d_y = cpu_const_f32(d_y_), *x = cpu_const_f32(x_);
    const int64_t blocks = bl_ceil_div(D, COLUMNS);
#pragma omp parallel for num_threads(cpu_threads(cpu, R *D))
    for (int64_t b = 0; b < blocks; b++)
        parameter_columns(d_weight, d_bias, d_y, x, a, R, D, b * COLUMNS,
                          bl_min(D, (b + 1) * COLUMNS));
#pragma omp parallel for num_threads(cpu_threads(cpu, R *D))
    for (int64_t r = 0; r < R; r++) {
        const float *d_y_r = d_y + r * D;
        if (d_shift) {
            const float *bias = bias_of(a, r, D);
            float dot = 0;
            if (a->center) {
                const float *center = center_of(a, r, D);
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < D; i++)
                    dot += d_y_r[i] * (a->weight[i] * center[i] + bias[i]);
            } else {
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < D; i++)
                    dot += d_y_r[i] * bias[i];
            }
            d_shift[r] = accumulate_shift ? d_shift[r] + dot : dot;
        }
        if (d_x) {
            float *d_x_r = d_x + r * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                d_x_r[i] = a->weight[i] * d_y_r[i];
        }
    }
}

void CPU_VARIANT(cpu_fill_affine)(struct ops *table)
{
    table->affine_forward = affine_forward;
    table->affine_backward = affine_backward;
}
