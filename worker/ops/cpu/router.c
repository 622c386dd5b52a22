/* worker/ops/cpu/router.c - mixture of experts: the router's softmax, the dense mixture and both
 * backward passes. B images, E experts: the router's part is tiny and runs on the caller. Sums over
 * an image run over blocks in f32, over the blocks in f64. */
#include "worker/ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 512 };

static void router_softmax(struct ops *self, float *w, float *lse, const act *z_, int64_t B,
                           int64_t E)
{
    const float *z = cpu_const_f32(z_);
    for (int64_t b = 0; b < B; b++) {
        const float *z_b = z + b * E;
        float *w_b = w + b * E, most = z_b[0], sum = 0;
        for (int64_t e = 1; e < E; e++)
            most = fmaxf(most, z_b[e]);
        for (int64_t e = 0; e < E; e++)
            sum += w_b[e] = expf(z_b[e] - most);
        for (int64_t e = 0; e < E; e++)
            w_b[e] /= sum;
        if (lse)
            lse[b] = most + logf(sum);
    }
}

/* y[i] = sum_e w[e] x[e * stride + i], for the elements of a block, which stay in the cache */
static void mix_block(float *restrict y, const float *x, int64_t stride, const float *w, int64_t E,
                      int64_t count)
{
    memset(y, 0, (size_t)count * sizeof *y);
    for (int64_t e = 0; e < E; e++)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y[i] += w[e] * x[e * stride + i];
}

static void mix_forward(struct ops *self, act *y, const act *x, const float *w, int64_t B,
                        int64_t E, int64_t rows, int64_t D)
{
    const int64_t count = rows * D;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), B *count))
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < count; i += BLOCK)
            mix_block(cpu_f32(y) + b * count + i, cpu_const_f32(x) + b * count + i, B * count,
                      w + b * E, E, bl_min(BLOCK, count - i));
}

static void mix_backward(struct ops *self, act *d_x, float *d_w, const act *d_y, const act *x,
                         const float *w, int64_t e, int64_t B, int64_t E, int64_t rows, int64_t D)
{
    const int64_t count = rows * D;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), B *count))
    for (int64_t b = 0; b < B; b++) {
        float *restrict d_x_b = cpu_f32(d_x) + b * count;
        const float *d_y_b = cpu_const_f32(d_y) + b * count;
        const float *x_b = cpu_const_f32(x) + b * count, weight = w[b * E + e];
        double dot = 0;
        for (int64_t first = 0; first < count; first += BLOCK) {
            const int64_t end = bl_min(count, first + BLOCK);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = first; i < end; i++) {
                d_x_b[i] = weight * d_y_b[i];
                part += d_y_b[i] * x_b[i];
            }
            dot += part;
        }
        d_w[b * E + e] = (float)dot;
    }
}

static void router_backward(struct ops *self, act *d_z, const float *d_w, const float *w,
                            const float *lse, const float *P, double tokens, double images,
                            float alpha, float beta, int64_t B, int64_t E)
{
    for (int64_t b = 0; b < B; b++) {
        const float *w_b = w + b * E;
        double mean = 0; /* sum_e w g */
        for (int pass = 0; pass < 2; pass++)
            for (int64_t e = 0; e < E; e++) {
                double g = d_w[b * E + e] / tokens + alpha * (double)E * 2 * P[e] / images;
                if (pass == 0)
                    mean += w_b[e] * g;
                else
                    cpu_f32(d_z)[b * E + e] =
                        (float)(w_b[e] * (g - mean) + 2 * beta / images * lse[b] * w_b[e]);
            }
    }
}

void CPU_VARIANT(cpu_fill_router)(struct ops *table)
{
    table->router_softmax = router_softmax;
    table->mix_forward = mix_forward;
    table->mix_backward = mix_backward;
    table->router_backward = router_backward;
}
