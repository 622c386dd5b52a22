/* worker/ops/cpu/rows.c - moving rows, repeating and averaging them, RoPE, image patches: bound by
 * memory, RoPE at 40 GB/s on (1568,768). */
#include "worker/ops/cpu/cpu.h"

#include <string.h>

#include "worker/ops/cpu/functions.h"

static void gather_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                        int64_t D)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D))
    for (int64_t r = 0; r < R; r++)
        memcpy(cpu_f32(y) + r * D, cpu_const_f32(x) + index[r] * D, (size_t)D * sizeof(float));
}

static void scatter_rows(struct ops *self, act *y, const act *x, const int32_t *index, int64_t R,
                         int64_t D)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *D))
    for (int64_t r = 0; r < R; r++)
        memcpy(cpu_f32(y) + index[r] * D, cpu_const_f32(x) + r * D, (size_t)D * sizeof(float));
}

static void broadcast_rows(struct ops *self, act *y, const float *param, int64_t S, int64_t rows,
                           int64_t D, bool accumulate)
{
    const int64_t count = rows * D;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *count))
    for (int64_t s = 0; s < S; s++) {
        float *restrict y_s = cpu_f32(y) + s * count;
        if (!accumulate)
            memset(y_s, 0, (size_t)count * sizeof *y_s);
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            y_s[i] += param[i];
    }
}

/* Each element of the parameter sums its samples in order. */
static void broadcast_rows_backward(struct ops *self, float *d_param, const act *d_y, int64_t S,
                                    int64_t rows, int64_t D)
{
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *rows *D))
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < S; s++) {
            float *restrict sum = d_param + r * D;
            const float *d_y_s = cpu_const_f32(d_y) + (s * rows + r) * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                sum[i] += d_y_s[i];
        }
}

static void mean_rows(struct ops *self, act *y, const act *x, int64_t S, int64_t rows,
                      int64_t first, int64_t D)
{
    BL_ASSERT(first < rows);
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), S *rows *D))
    for (int64_t s = 0; s < S; s++) {
        float *restrict mean = cpu_f32(y) + s * D;
        memset(mean, 0, (size_t)D * sizeof *mean);
        for (int64_t r = first; r < rows; r++) {
            const float *x_r = cpu_const_f32(x) + (s * rows + r) * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++)
                mean[i] += x_r[i];
        }
#pragma omp simd
        for (int64_t i = 0; i < D; i++)
            mean[i] /= (float)(rows - first);
    }
}

/* (a, b) = (x_i, x_{i + half}) turns by the angle: a cos - b sin, b cos + a sin. */
static void rope(struct ops *self, act *x, int64_t ld, const int32_t *position,
                 const float *inv_freq, int64_t R, int64_t heads, int64_t head_dim, int direction)
{
    enum { PAIRS = 64 }; /* angles computed at a time, for all heads */
    const int64_t half = head_dim / 2;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), R *heads *head_dim * 4))
    for (int64_t r = 0; r < R; r++)
        for (int64_t first = 0; first < half; first += PAIRS) {
            float sine[PAIRS], cosine[PAIRS];
            const int64_t count = bl_min(PAIRS, half - first);
            const float place = (float)position[r];
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                f32_sincos(place * inv_freq[first + i], &sine[i], &cosine[i]);
            for (int64_t h = 0; h < heads; h++) {
                float *restrict a = cpu_f32(x) + r * ld + h * head_dim + first;
                float *restrict b = a + half;
#pragma omp simd
                for (int64_t i = 0; i < count; i++) {
                    float turn = (float)direction * sine[i], a_i = a[i], b_i = b[i];
                    a[i] = a_i * cosine[i] - b_i * turn;
                    b[i] = b_i * cosine[i] + a_i * turn;
                }
            }
        }
}

static void patchify(struct ops *self, act *y, const uint8_t *pixels, int64_t B, int64_t size,
                     int64_t patch, const float scale[3], const float shift[3])
{
    const int64_t grid = size / patch, area = patch * patch;
#pragma omp parallel for num_threads(cpu_threads(cpu_of(self), B *size *size * 3))
    for (int64_t row = 0; row < B * grid * grid; row++) {
        const int64_t b = row / (grid * grid), gy = row / grid % grid, gx = row % grid;
        float *out = cpu_f32(y) + row * 3 * area;
        for (int64_t c = 0; c < 3; c++)
            for (int64_t py = 0; py < patch; py++) {
                const uint8_t *in =
                    pixels + ((b * size + gy * patch + py) * size + gx * patch) * 3 + c;
                for (int64_t px = 0; px < patch; px++)
                    out[c * area + py * patch + px] = (float)in[px * 3] * scale[c] + shift[c];
            }
    }
}

void CPU_VARIANT(cpu_fill_rows)(struct ops *table)
{
    table->gather_rows = gather_rows;
    table->scatter_rows = scatter_rows;
    table->broadcast_rows = broadcast_rows;
    table->broadcast_rows_backward = broadcast_rows_backward;
    table->mean_rows = mean_rows;
    table->rope = rope;
    table->patchify = patchify;
}
