/* worker/ops/cpu/optimizer.c - gradient norm, AdamW, moving average, fixed-point sums: bound by
 * memory. Threads take fixed blocks of elements, so that an element meets the same instructions
 * whatever their number; sums run over the blocks, then over their results in order.
 *
 * Rate       1.2 million elements: AdamW 50 GB/s, adding to fixed point 46.
 */
#include "worker/ops/cpu/cpu.h"

#include <math.h>

enum { BLOCK = 1 << 14 };

static void grad_norm(struct ops *self, double *out, const float *g, int64_t count, double scale)
{
    struct cpu *cpu = cpu_of(self);
    const int64_t blocks = bl_ceil_div(count, BLOCK);
    double(*partial)[2] = cpu_scratch(cpu, CPU_SCRATCH_INNER, (size_t)blocks * sizeof *partial);
    if (!partial)
        return;
#pragma omp parallel for num_threads(cpu_threads(cpu, count))
    for (int64_t b = 0; b < blocks; b++) {
        double squares = 0;
        int64_t bad = 0;
        const int64_t end = bl_min(count, (b + 1) * BLOCK);
#pragma omp simd reduction(+ : squares, bad)
        for (int64_t i = b * BLOCK; i < end; i++) {
            double value = g[i] * scale;
            squares += value * value;
            bad += !(fabsf(g[i]) <= 0x1.fffffep127f);
        }
        partial[b][0] = squares;
        partial[b][1] = (double)bad;
    }
    for (int64_t b = 0; b < blocks; b++) {
        out[0] += partial[b][0];
        out[1] += partial[b][1];
    }
}

/* Constants are computed in f64: 1 - 0.999f alone is 1.3e-5 off. */
static void adamw(struct ops *self, float *p, float *m, float *v, const float *g, int64_t count,
                  double scale, const struct ops_adamw *o)
{
    const float factor = (float)scale, eps = (float)o->eps;
    const float beta1 = (float)o->beta1, rest1 = (float)(1 - o->beta1);
    const float beta2 = (float)o->beta2, rest2 = (float)(1 - o->beta2);
    const float keep = (float)(1 - o->lr * o->weight_decay);
    const float step = (float)(o->lr / (1 - pow(o->beta1, (double)o->t)));
    const float unbias = (float)(1 / sqrt(1 - pow(o->beta2, (double)o->t)));
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count * 4))
    for (int64_t b = 0; b < count; b += BLOCK) {
        const int64_t end = bl_min(count, b + BLOCK);
#pragma omp simd
        for (int64_t i = b; i < end; i++) {
            float g_i = g[i] * factor;
            float m_i = beta1 * m[i] + rest1 * g_i;
            float v_i = beta2 * v[i] + rest2 * (g_i * g_i);
            m[i] = m_i;
            v[i] = v_i;
            p[i] = keep * p[i] - step * m_i / (sqrtf(v_i) * unbias + eps);
        }
    }
}

static void ema(struct ops *self, float *ema, const float *p, int64_t count, float decay)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count * 2))
    for (int64_t b = 0; b < count; b += BLOCK) {
        const int64_t end = bl_min(count, b + BLOCK);
#pragma omp simd
        for (int64_t i = b; i < end; i++)
            ema[i] = decay * ema[i] + (1 - decay) * p[i];
    }
}

/* g 2^36 rounded to the nearest integer, ties to even. From 2^51 on (a float there has
 * no fraction) it is one; below, adding and
 * taking away 1.5 2^52 leaves no room for a fraction. */
static inline int64_t to_fixed(float g)
{
    const double magic = 0x1.8p52, value = (double)g * OPS_FIXED_SCALE;
    const double rounded = (value + magic) - magic;
    return (int64_t)(fabs(value) < 0x1p51 ? rounded : value);
}

static void fixed_add(struct ops *self, int64_t *acc, int64_t *bad, const float *g, int64_t count,
                      float limit)
{
    BL_ASSERT(limit <= 0x1p26f); /* limit * 2^36 fits i64 */
    int64_t bad_sum = 0;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count * 4)) reduction(+ : bad_sum)
    for (int64_t b = 0; b < count; b += BLOCK) {
        const int64_t end = bl_min(count, b + BLOCK);
#pragma omp simd reduction(+ : bad_sum)
        for (int64_t i = b; i < end; i++) {
            const bool good = fabsf(g[i]) < limit;
            bad_sum += !good;
            acc[i] += to_fixed(good ? g[i] : 0);
        }
    }
    *bad += bad_sum;
}

static void fixed_get(struct ops *self, float *g, const int64_t *acc, int64_t count)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), count * 2))
    for (int64_t b = 0; b < count; b += BLOCK) {
        const int64_t end = bl_min(count, b + BLOCK);
#pragma omp simd
        for (int64_t i = b; i < end; i++)
            g[i] = (float)((double)acc[i] / OPS_FIXED_SCALE);
    }
}

void CPU_VARIANT(cpu_fill_optimizer)(struct ops *table)
{
    table->grad_norm = grad_norm;
    table->adamw = adamw;
    table->ema = ema;
    table->fixed_add = fixed_add;
    table->fixed_get = fixed_get;
}
