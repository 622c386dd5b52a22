/* worker/ops/cpu/softmax.c - p = softmax(scale x), dropped = m p, sums = sum_j dropped, over rows of N;
 * m the dropout factors.
 *
 * Backward   g = m (d_dropped + d_sums),  d_x = scale p (g - sum_j p g).
 * Order      one thread per row.
 */
#include "worker/ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "worker/ops/cpu/functions.h"

enum { CHUNK = 512 }; /* dropout factors at hand */

/* y = m x for `count` elements of a row that begins at element `first` of the sample. */
static void drop_row(float *y, const float *x, const struct ops_dropout *dropout, int64_t sample,
                     uint64_t first, int64_t count)
{
    float factors[CHUNK];
    if (dropout_is_off(dropout)) {
        if (y != x)
            memcpy(y, x, (size_t)count * sizeof *y);
        return;
    }
    for (int64_t at = 0; at < count; at += CHUNK) {
        const int64_t n = bl_min(CHUNK, count - at);
        dropout_scales(factors, dropout, sample, first + (uint64_t)at, n);
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            y[at + j] = x[at + j] * factors[j];
    }
}

static void softmax_row(float *p, const float *x, float scale, int64_t N)
{
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < N; j++)
        most = x[j] > most ? x[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < N; j++) {
        p[j] = f32_exp(scale * (x[j] - most));
        sum += p[j];
    }
    const float inverse = 1 / sum;
#pragma omp simd
    for (int64_t j = 0; j < N; j++)
        p[j] *= inverse;
}

static void clear_behind(float *row, int64_t N, int64_t ld)
{
    memset(row + N, 0, (size_t)(ld - N) * sizeof *row);
}

static void softmax_forward(struct ops *self, act *p_, act *dropped_, float *sums, const act *x_,
                            float scale, const struct ops_dropout *dropout, int64_t S, int64_t rows,
                            int64_t N, int64_t ld)
{
    float *p = cpu_f32(p_), *dropped = cpu_f32(dropped_);
    const float *x = cpu_const_f32(x_);
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *rows *N * 16))
    for (int64_t r = 0; r < S * rows; r++) {
        float *dropped_r = dropped + r * ld, sum = 0;
        softmax_row(p + r * ld, x + r * ld, scale, N);
        drop_row(dropped_r, p + r * ld, dropout, r / rows, (uint64_t)(r % rows * N), N);
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < N; j++)
            sum += dropped_r[j];
        sums[r] = sum;
        clear_behind(p + r * ld, N, ld);
        clear_behind(dropped_r, N, ld);
    }
}

static void softmax_drop(struct ops *self, act *dropped_, const act *p_,
                         const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                         int64_t ld)
{
    float *dropped = cpu_f32(dropped_);
    const float *p = cpu_const_f32(p_);
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *rows *N * 8))
    for (int64_t r = 0; r < S * rows; r++) {
        drop_row(dropped + r * ld, p + r * ld, dropout, r / rows, (uint64_t)(r % rows * N), N);
        clear_behind(dropped + r * ld, N, ld);
    }
}

static void softmax_backward(struct ops *self, act *d_x_, const act *d_dropped_,
                             const float *d_sums, const act *p_, float scale,
                             const struct ops_dropout *dropout, int64_t S, int64_t rows, int64_t N,
                             int64_t ld)
{
    float *d_x = cpu_f32(d_x_);
    const float *d_dropped = cpu_const_f32(d_dropped_), *p = cpu_const_f32(p_);
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *rows *N * 16))
    for (int64_t r = 0; r < S * rows; r++) {
        float *d = d_x + r * ld, dot = 0;
        const float *from = d_dropped + r * ld, *p_r = p + r * ld, d_sum = d_sums[r];
#pragma omp simd
        for (int64_t j = 0; j < N; j++)
            d[j] = from[j] + d_sum;
        drop_row(d, d, dropout, r / rows, (uint64_t)(r % rows * N), N);
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < N; j++)
            dot += p_r[j] * d[j];
#pragma omp simd
        for (int64_t j = 0; j < N; j++)
            d[j] = scale * p_r[j] * (d[j] - dot);
        clear_behind(d, N, ld);
    }
}

void CPU_VARIANT(cpu_fill_softmax)(struct ops *table)
{
    table->softmax_drop = softmax_drop;
    table->softmax_forward = softmax_forward;
    table->softmax_backward = softmax_backward;
}
