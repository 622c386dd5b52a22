/* worker/ops/cpu/elementwise.c - sums, activations, SwiGLU, dropout: bound by memory.
 *
 * Rate       (1568,768): add 28 GB/s, GELU backward 24, SwiGLU 27; dropout, bound by Philox, 0.7 G
 *            elements a second.
 */
#include "worker/ops/cpu/cpu.h"

#include <string.h>

#include "worker/ops/cpu/functions.h"

enum { BLOCK = 4096 }; /* elements a thread takes at once */

static void add(struct ops *self, act *y_, const act *a_, const act *b_, int64_t count)
{
    float *y = cpu_f32(y_);
    const float *a = cpu_const_f32(a_), *b = cpu_const_f32(b_);
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count))
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t end = bl_min(count, first + BLOCK);
#pragma omp simd
        for (int64_t i = first; i < end; i++)
            y[i] = a[i] + b[i];
    }
}

static void activation_backward_block(float *d_x, const float *d_y, const float *pre,
                                      enum ops_epilogue epilogue, int64_t count)
{
    switch (epilogue) {
    case OPS_NONE:
        if (d_x != d_y)
            memcpy(d_x, d_y, (size_t)count * sizeof *d_x);
        break;
    case OPS_GELU_ERF:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            d_x[i] = d_y[i] * f32_gelu_erf_slope(pre[i]);
        break;
    case OPS_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            d_x[i] = d_y[i] * f32_gelu_tanh_slope(pre[i]);
        break;
    case OPS_SILU:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            d_x[i] = d_y[i] * f32_silu_slope(pre[i]);
        break;
    }
}

static void activation_backward(struct ops *self, act *d_x, const act *d_y, const act *pre,
                                enum ops_epilogue epilogue, int64_t count)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count * 16))
    for (int64_t i = 0; i < count; i += BLOCK)
        activation_backward_block(cpu_f32(d_x) + i, cpu_const_f32(d_y) + i, cpu_const_f32(pre) + i,
                                  epilogue, bl_min(BLOCK, count - i));
}

static void swiglu_forward(struct ops *self, act *y, const act *x, int64_t R, int64_t D)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D * 16))
    for (int64_t r = 0; r < R; r++) {
        float *restrict y_r = cpu_f32(y) + r * D;
        const float *gate = cpu_const_f32(x) + r * 2 * D, *up = gate + D;
#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            y_r[i] = f32_silu(gate[i]) * up[i];
    }
}

static void swiglu_backward(struct ops *self, act *d_x, const act *d_y, const act *x, int64_t R,
                            int64_t D)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D * 16))
    for (int64_t r = 0; r < R; r++) {
        float *restrict d_gate = cpu_f32(d_x) + r * 2 * D, *restrict d_up = d_gate + D;
        const float *d_y_r = cpu_const_f32(d_y) + r * D;
        const float *gate = cpu_const_f32(x) + r * 2 * D, *up = gate + D;
#pragma omp simd
        for (int64_t i = 0; i < D; i++) {
            float g = gate[i], u = up[i], d = d_y_r[i];
            d_gate[i] = d * u * f32_silu_slope(g);
            d_up[i] = d * f32_silu(g);
        }
    }
}

static void dropout(struct ops *self, act *y_, const act *x_, const struct ops_dropout *dropout,
                    int64_t S, int64_t rows, int64_t D)
{
    float *y = cpu_f32(y_);
    const float *x = cpu_const_f32(x_);
    const int64_t sample_count = rows * D, blocks = bl_ceil_div(sample_count, BLOCK);
    if (dropout_is_off(dropout)) {
        if (y != x)
            memcpy(y, x, (size_t)(S * sample_count) * sizeof *y);
        return;
    }
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *sample_count * 8))
    for (int64_t i = 0; i < S * blocks; i++) {
        float scale[BLOCK];
        const int64_t s = i / blocks, first = i % blocks * BLOCK;
        const int64_t count = bl_min(BLOCK, sample_count - first);
        float *y_i = y + s * sample_count + first;
        const float *x_i = x + s * sample_count + first;
        dropout_scales(scale, dropout, s, (uint64_t)first, count);
#pragma omp simd
        for (int64_t j = 0; j < count; j++)
            y_i[j] = x_i[j] * scale[j];
    }
}

void CPU_VARIANT(cpu_fill_elementwise)(struct ops *table)
{
    table->add = add;
    table->activation_backward = activation_backward;
    table->swiglu_forward = swiglu_forward;
    table->swiglu_backward = swiglu_backward;
    table->dropout = dropout;
}
