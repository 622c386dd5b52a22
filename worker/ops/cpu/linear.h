/* worker/ops/cpu/linear.h - a linear layer's product, whatever form it is computed in: y (R,N) = or += x (R,K) B, B = W^T or,
 * transposed, W; then bias, the sums saved before the activation, and the activation. */
#pragma once

#include <string.h>

#include "worker/ops/cpu/functions.h"
#include "worker/ops/cpu/matrix.h"

struct linear_product {
    const struct ops_matrix *w;
    bool transposed;
    float *y, *saved_pre; /* saved_pre, bias: NULL, not wanted */
    const float *x, *bias;
    int64_t R, N, K;
    enum ops_epilogue epilogue;
    bool accumulate;
};

/* Of few rows, W read as it lies: f32 or bf16. A product of so few waits for W, which the library, or panels, would first
 * lay out for many. */
bool CPU_VARIANT(is_few)(const struct linear_product *p);
void CPU_VARIANT(multiply_few)(struct cpu *cpu, const struct linear_product *p);
/* By panels (panels.h). */
void CPU_VARIANT(multiply_panels)(struct cpu *cpu, const struct linear_product *p);

/* The end of a row: y = product (which may be y, unless added), or += product; bias, what is saved, activation. */
static inline void finish_row(float *y, const float *product, bool accumulate, float *saved_pre,
                              const float *bias, int64_t count, enum ops_epilogue epilogue)
{
    if (accumulate)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] += product[i];
    else if (y != product)
        memcpy(y, product, (size_t)count * sizeof *y);
    if (bias)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] += bias[i];
    if (saved_pre)
        memcpy(saved_pre, y, (size_t)count * sizeof *y);
    switch (epilogue) {
    case OPS_NONE:
        break;
    case OPS_GELU_ERF:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_gelu_erf(y[i]);
        break;
    case OPS_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_gelu_tanh(y[i]);
        break;
    case OPS_SILU:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] = f32_silu(y[i]);
        break;
    }
}

static inline size_t whole_lines(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Rows [r0, r0 + rows) and columns [n0, n0 + columns) of a product are done, in rows of ld: to y, and their end. */
static inline void finish_rows(const struct linear_product *p, const float *product, int64_t ld,
                               int64_t r0, int64_t rows, int64_t n0, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = (r0 + r) * p->N + n0;
        finish_row(p->y + at, product + r * ld, p->accumulate,
                   p->saved_pre ? p->saved_pre + at : NULL, p->bias ? p->bias + n0 : NULL, columns,
                   p->epilogue);
    }
}
