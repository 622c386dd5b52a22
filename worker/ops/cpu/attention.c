/* worker/ops/cpu/attention.c - o_i = sum_j drop(p_ij) v_j,  p_i = softmax_j(scale q_i k_j), ragged,
 * grouped, causal.
 *
 * Backward   with m_ij the dropout factor, p recomputed from the saved log-sum-exp:
 *            d_v_j = sum_i m_ij p_ij d_o_i,   D_i = d_o_i o_i = sum_j p_ij d_p_ij,
 *            d_p_ij = m_ij (d_o_i v_j),       d_s_ij = p_ij (d_p_ij - D_i) scale,
 *            d_q_i = sum_j d_s_ij k_j,        d_k_j = sum_i d_s_ij q_i.
 * Order      blocks of BLOCK query rows against all visible keys. Forward: a task is one query head
 *            of a sequence; backward: one key/value head, whose query heads and blocks add to d_k
 *            and d_v one after the other. So the number of threads decides nothing.
 */
#include "worker/ops/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <string.h>

#include "worker/ops/cpu/functions.h"

enum { BLOCK = 64 }; /* query rows of one tile of scores */

/* One head of one sequence. */
struct head {
    int64_t s, h, q_row, k_row, q_len, k_len;
};

static struct head head_of(const struct ops_attention *a, int64_t s, int64_t h)
{
    return (struct head){s, h, a->q_start[s], a->k_start[s], a->q_len[s], a->k_len[s]};
}

/* Keys that query row i of a sequence sees: the first so many. */
static int64_t visible(const struct ops_attention *a, const struct head *head, int64_t i)
{
    return a->causal ? bl_max(0, i + 1 + head->k_len - head->q_len) : head->k_len;
}

/* y (M,N) = alpha op(a) op(b) + beta y, row-major, single-threaded (cpu.h, Threads). */
static void sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha,
                  const float *a, int64_t ld_a, const float *b, int64_t ld_b, float beta, float *y,
                  int64_t ld_y)
{
    dnnl_status_t status =
        dnnl_sgemm(transpose_a, transpose_b, M, N, K, alpha, a, ld_a, b, ld_b, beta, y, ld_y);
    BL_ASSERT(status == dnnl_success);
}

static int64_t work_of(const struct ops_attention *a)
{
    return a->S * a->heads * a->q_len_max * a->k_len_max * (a->head_dim / 4 + 4);
}

/* scores[0..count) becomes its softmax, zero from `count` to `width`. Returns the log-sum-exp. */
static float softmax_row(float *scores, int64_t count, int64_t width)
{
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < count; j++)
        most = scores[j] > most ? scores[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; j++) {
        scores[j] = f32_exp(scores[j] - most);
        sum += scores[j];
    }
    const float scale = 1 / sum;
#pragma omp simd
    for (int64_t j = 0; j < count; j++)
        scores[j] *= scale;
    memset(scores + count, 0, (size_t)(width - count) * sizeof *scores);
    return count ? most + logf(sum) : -INFINITY;
}

/* Dropout factors of one row of scores. */
static void row_factors(float *factors, const struct ops_attention *a, const struct head *head,
                        int64_t i, int64_t count)
{
    uint64_t first =
        ((uint64_t)head->h * (uint64_t)head->q_len + (uint64_t)i) * (uint64_t)head->k_len;
    dropout_scales(factors, a->dropout, head->s, first, count);
}

/* -- forward -- */

struct forward {
    float *out, *saved;
    const float *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
    const struct ops_attention *a;
};

/* scratch: (BLOCK + 1) x k_len_max */
static void forward_head(const struct forward *f, const struct head *head, float *scratch)
{
    const struct ops_attention *a = f->a;
    const int64_t d = a->head_dim, kv = head->h / (a->heads / a->kv_heads) * d;
    const float *k = f->k + head->k_row * f->ld_k + kv, *v = f->v + head->k_row * f->ld_v + kv;
    float *factors = scratch + BLOCK * a->k_len_max;
    for (int64_t i0 = 0; i0 < head->q_len; i0 += BLOCK) {
        const int64_t rows = bl_min(BLOCK, head->q_len - i0);
        const int64_t width = visible(a, head, i0 + rows - 1);
        float *out = f->out + (head->q_row + i0) * f->ld_out + head->h * d;
        const float *q = f->q + (head->q_row + i0) * f->ld_q + head->h * d;
        if (width > 0)
            sgemm('N', 'T', rows, width, d, a->scale, q, f->ld_q, k, f->ld_k, 0, scratch, width);
        for (int64_t i = 0; i < rows; i++) {
            float *p = scratch + i * width;
            const int64_t count = visible(a, head, i0 + i);
            float lse = softmax_row(p, count, width);
            if (f->saved)
                f->saved[(head->q_row + i0 + i) * a->heads + head->h] = lse;
            if (dropout_is_off(a->dropout))
                continue;
            row_factors(factors, a, head, i0 + i, count);
#pragma omp simd
            for (int64_t j = 0; j < count; j++)
                p[j] *= factors[j];
        }
        if (width > 0)
            sgemm('N', 'N', rows, d, width, 1, scratch, width, v, f->ld_v, 0, out, f->ld_out);
        else
            for (int64_t i = 0; i < rows; i++)
                memset(out + i * f->ld_out, 0, (size_t)d * sizeof *out);
    }
}

static void attention_forward(struct ops *self, act *out, int64_t ld_out, float *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a)
{
    struct cpu *cpu = cpu_of(self);
    const struct forward f = {cpu_f32(out),
                              saved,
                              cpu_const_f32(q),
                              cpu_const_f32(k),
                              cpu_const_f32(v),
                              ld_out,
                              ld_q,
                              ld_k,
                              ld_v,
                              a};
    size_t stride;
    size_t bytes = (size_t)((BLOCK + 1) * a->k_len_max) * sizeof(float);
    char *scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, bytes, &stride);
    if (!scratch)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(a)))
    for (int64_t task = 0; task < a->S * a->heads; task++) {
        struct head head = head_of(a, task / a->heads, task % a->heads);
        forward_head(&f, &head, (float *)(scratch + (size_t)omp_get_thread_num() * stride));
    }
}

/* -- backward -- */

struct backward {
    float *d_q, *d_k, *d_v;
    const float *d_out, *out, *saved, *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
    const struct ops_attention *a;
};

/* Row i0 + i of a tile: p, as scores, becomes m p (for d_v), d_p becomes d_s. */
static void backward_row(const struct backward *b, const struct head *head, int64_t i, float *p,
                         float *d_p, float *factors, int64_t width)
{
    const struct ops_attention *a = b->a;
    const int64_t row = head->q_row + i, count = visible(a, head, i);
    const float *d_out = b->d_out + row * b->ld_out + head->h * a->head_dim;
    const float *out = b->out + row * b->ld_out + head->h * a->head_dim;
    const float lse = b->saved[row * a->heads + head->h], scale = a->scale;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < a->head_dim; c++)
        dot += d_out[c] * out[c];
    if (dropout_is_off(a->dropout))
#pragma omp simd
        for (int64_t j = 0; j < count; j++) {
            p[j] = f32_exp(p[j] - lse);
            d_p[j] = p[j] * (d_p[j] - dot) * scale;
        }
    else {
        row_factors(factors, a, head, i, count);
#pragma omp simd
        for (int64_t j = 0; j < count; j++) {
            float prob = f32_exp(p[j] - lse);
            d_p[j] = prob * (factors[j] * d_p[j] - dot) * scale;
            p[j] = prob * factors[j];
        }
    }
    memset(p + count, 0, (size_t)(width - count) * sizeof *p);
    memset(d_p + count, 0, (size_t)(width - count) * sizeof *d_p);
}

/* One query head: d_q written, d_k and d_v of its key/value head added to. scratch: (2 BLOCK + 1) x
 * k_len_max */
static void backward_head(const struct backward *b, const struct head *head, float *scratch)
{
    const struct ops_attention *a = b->a;
    const int64_t d = a->head_dim, kv = head->h / (a->heads / a->kv_heads) * d;
    const float *k = b->k + head->k_row * b->ld_k + kv, *v = b->v + head->k_row * b->ld_v + kv;
    float *d_k = b->d_k + head->k_row * b->ld_k + kv, *d_v = b->d_v + head->k_row * b->ld_v + kv;
    float *p = scratch, *d_p = scratch + BLOCK * a->k_len_max;
    float *factors = scratch + 2 * BLOCK * a->k_len_max;
    for (int64_t i0 = 0; i0 < head->q_len; i0 += BLOCK) {
        const int64_t rows = bl_min(BLOCK, head->q_len - i0);
        const int64_t width = visible(a, head, i0 + rows - 1);
        const float *q = b->q + (head->q_row + i0) * b->ld_q + head->h * d;
        const float *d_out = b->d_out + (head->q_row + i0) * b->ld_out + head->h * d;
        float *d_q = b->d_q + (head->q_row + i0) * b->ld_q + head->h * d;
        if (width == 0) {
            for (int64_t i = 0; i < rows; i++)
                memset(d_q + i * b->ld_q, 0, (size_t)d * sizeof *d_q);
            continue;
        }
        sgemm('N', 'T', rows, width, d, a->scale, q, b->ld_q, k, b->ld_k, 0, p, width);
        sgemm('N', 'T', rows, width, d, 1, d_out, b->ld_out, v, b->ld_v, 0, d_p, width);
        for (int64_t i = 0; i < rows; i++)
            backward_row(b, head, i0 + i, p + i * width, d_p + i * width, factors, width);
        sgemm('N', 'N', rows, d, width, 1, d_p, width, k, b->ld_k, 0, d_q, b->ld_q);
        sgemm('T', 'N', width, d, rows, 1, d_p, width, q, b->ld_q, 1, d_k, b->ld_k);
        sgemm('T', 'N', width, d, rows, 1, p, width, d_out, b->ld_out, 1, d_v, b->ld_v);
    }
}

static void attention_backward(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const float *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a)
{
    struct cpu *cpu = cpu_of(self);
    const struct backward b = {cpu_f32(d_q),
                               cpu_f32(d_k),
                               cpu_f32(d_v),
                               cpu_const_f32(d_out),
                               cpu_const_f32(out),
                               saved,
                               cpu_const_f32(q),
                               cpu_const_f32(k),
                               cpu_const_f32(v),
                               ld_out,
                               ld_q,
                               ld_k,
                               ld_v,
                               a};
    const int64_t group = a->heads / a->kv_heads;
    size_t stride, bytes = (size_t)((2 * BLOCK + 1) * a->k_len_max) * sizeof(float);
    char *scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, bytes, &stride);
    if (!scratch)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(a)))
    for (int64_t task = 0; task < a->S * a->kv_heads; task++) {
        const int64_t s = task / a->kv_heads, kv = task % a->kv_heads;
        float *mine = (float *)(scratch + (size_t)omp_get_thread_num() * stride);
        for (int64_t j = 0; j < a->k_len[s]; j++) {
            const int64_t row = a->k_start[s] + j, column = kv * a->head_dim;
            memset(b.d_k + row * ld_k + column, 0, (size_t)a->head_dim * sizeof(float));
            memset(b.d_v + row * ld_v + column, 0, (size_t)a->head_dim * sizeof(float));
        }
        for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
            struct head head = head_of(a, s, h);
            backward_head(&b, &head, mine);
        }
    }
}

/* -- probabilities, for pictures -- */

static void attention_probs(struct ops *self, float *probs, const act *q_, int64_t ld_q,
                            const act *k_, int64_t ld_k, const struct ops_attention *a)
{
    struct cpu *cpu = cpu_of(self);
    const int64_t d = a->head_dim, group = a->heads / a->kv_heads, width = a->k_len_max;
    size_t stride;
    char *scratch =
        cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, (size_t)width * sizeof(float), &stride);
    if (!scratch)
        return;
    memset(probs, 0, (size_t)(a->S * a->q_len_max * width) * sizeof *probs);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work_of(a)))
    for (int64_t task = 0; task < a->S * a->q_len_max; task++) {
        const int64_t s = task / a->q_len_max, i = task % a->q_len_max;
        float *p = (float *)(scratch + (size_t)omp_get_thread_num() * stride);
        for (int64_t h = 0; h < a->heads && i < a->q_len[s]; h++) {
            struct head head = head_of(a, s, h);
            const int64_t count = visible(a, &head, i);
            const float *q = cpu_const_f32(q_) + (head.q_row + i) * ld_q + h * d;
            const float *k = cpu_const_f32(k_) + head.k_row * ld_k + h / group * d;
            if (count > 0)
                sgemm('N', 'T', 1, count, d, a->scale, q, ld_q, k, ld_k, 0, p, count);
            softmax_row(p, count, count);
            for (int64_t j = 0; j < count; j++)
                probs[task * width + j] += p[j] / (float)a->heads;
        }
    }
}

void CPU_VARIANT(cpu_fill_attention)(struct ops *table)
{
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_probs = attention_probs;
}
