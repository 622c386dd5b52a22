/* worker/ops/cpu/attention.c - o_i = sum_j drop(p_ij) v_j,  p_i = softmax_j(scale q_i k_j), ragged,
 * grouped, causal.
 *
 * Backward   with m_ij the dropout factor, p recomputed from the saved log-sum-exp:
 *            d_v_j = sum_i m_ij p_ij d_o_i,   D_i = d_o_i o_i = sum_j p_ij d_p_ij,
 *            d_p_ij = m_ij (d_o_i v_j),       d_s_ij = p_ij (d_p_ij - D_i) scale,
 *            d_q_i = sum_j d_s_ij k_j,        d_k_j = sum_i d_s_ij q_i.
 * Order      a task is one key/value head of one sequence: its keys and values are laid out once
 * for the products (product.h), then its query heads, and of each the blocks of BLOCK query rows
 * against all visible keys, follow one after the other and add to d_k and d_v in that order. So the
 * number of threads decides nothing.
 * Panels     with cpu->form and nothing to be saved for backward, long sequences are multiplied by panels
 *            (panels.h), transposed, which needs no transposes: scores are (keys, query rows), o (d, query rows).
 * Rate       12 heads of 64, 196 keys: 80 GFLOP/s forward and backward, 729 keys: 100 and 84; small
 *            ones are bound by exp and dropout: 16 to 64 keys of 24 with dropout 20 to 35. In blocks, 729 keys of 72:
 *            123 beside 99 in f32, on a busy machine.
 */
#include "worker/ops/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "worker/ops/cpu/functions.h"
#include "worker/ops/cpu/panels.h"
#include "worker/ops/cpu/product.h"

enum { BLOCK = 48 }; /* query rows of one tile of scores: with 196 keys it fits the L1 cache */

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

static int64_t work_of(const struct ops_attention *a)
{
    return a->S * a->heads * a->q_len_max * a->k_len_max * (a->head_dim / 8 + 4);
}

/* Rows of scores are worked on in whole vectors: what stands behind the visible ones up to there is
 * minus infinity, whose exponential is 0. */
static int64_t mask_row(float *scores, int64_t count)
{
    const int64_t end = padded(count);
    for (int64_t j = count; j < end; j++)
        scores[j] = -INFINITY;
    return end;
}

/* scores[0..count) becomes its softmax, zero from `count` to `width`. Returns the log-sum-exp. */
static float softmax_row(float *scores, int64_t count, int64_t width)
{
    const int64_t end = mask_row(scores, count);
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < end; j++)
        most = scores[j] > most ? scores[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < end; j++) {
        scores[j] = f32_exp(scores[j] - most);
        sum += scores[j];
    }
    const float scale = 1 / sum;
#pragma omp simd
    for (int64_t j = 0; j < end; j++)
        scores[j] *= scale;
    for (int64_t j = end; j < width; j++)
        scores[j] = 0;
    return count ? most + logf(sum) : -INFINITY;
}

/* Dropout factors of query rows [i, i + rows) of a head: consecutive elements, k_len to a row, and
 * a vector more than are needed. */
static void draw_factors(float *factors, const struct ops_attention *a, const struct head *head,
                         int64_t i, int64_t rows)
{
    uint64_t first =
        ((uint64_t)head->h * (uint64_t)head->q_len + (uint64_t)i) * (uint64_t)head->k_len;
    dropout_scales(factors, a->dropout, head->s, first, rows * head->k_len + VECTOR);
}

/* The rows of a head as the products want them: where they are, or a copy in `scratch`. */
struct panel {
    const float *at;
    int64_t ld;
};

static struct panel panel_of(float *scratch, const float *x, int64_t ld_x, int64_t rows,
                             int64_t columns)
{
    if (columns % VECTOR == 0)
        return (struct panel){x, ld_x};
    pack(scratch, x, ld_x, rows, columns);
    return (struct panel){scratch, padded(columns)};
}

/* The query heads of key/value head `kv` of sequence s; `memory` is the thread's own. */
typedef void group_task(const void *job, int64_t s, int64_t kv, float *memory);

/* Runs the task for every key/value head of every sequence, with `floats` of scratch each. */
static void each_group(struct cpu *cpu, const struct ops_attention *a, group_task *task,
                       const void *job, size_t floats, int64_t work)
{
    size_t stride;
    char *scratch = cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, floats * sizeof(float), &stride);
    if (!scratch || cpu->dry)
        return;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu, work))
    for (int64_t i = 0; i < a->S * a->kv_heads; i++)
        task(job, i / a->kv_heads, i % a->kv_heads,
             (float *)(scratch + (size_t)omp_get_thread_num() * stride));
}

/* -- forward -- */

struct forward {
    float *out, *saved;
    const float *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
    const struct ops_attention *a;
    const struct panels_form *form; /* NULL, or how long sequences are multiplied */
};

/* A thread's scratch; kw and dw are the padded numbers of keys and of a head's columns. */
struct forward_scratch {
    float *k_transposed;     /* (d, kw) */
    float *v;                /* (k_len_max, dw) */
    float *scores, *factors; /* (BLOCK, kw) */
};

static size_t forward_floats(const struct ops_attention *a)
{
    const int64_t kw = padded(a->k_len_max), dw = padded(a->head_dim);
    return (size_t)(a->head_dim * kw + a->k_len_max * dw + (2 * BLOCK + 1) * kw);
}

static struct forward_scratch forward_scratch(const struct ops_attention *a, float *at)
{
    const int64_t kw = padded(a->k_len_max), dw = padded(a->head_dim);
    struct forward_scratch s = {.k_transposed = at};
    s.v = s.k_transposed + a->head_dim * kw;
    s.scores = s.v + a->k_len_max * dw;
    s.factors = s.scores + BLOCK * kw;
    return s;
}

/* One query head. k_transposed and v hold its keys and values. */
static void forward_head(const struct forward *f, const struct head *head,
                         const struct forward_scratch *scratch, struct panel v)
{
    const struct ops_attention *a = f->a;
    const int64_t d = a->head_dim, kw = padded(head->k_len);
    const bool drops = !dropout_is_off(a->dropout);
    for (int64_t i0 = 0; i0 < head->q_len; i0 += BLOCK) {
        const int64_t rows = bl_min(BLOCK, head->q_len - i0);
        const int64_t width = visible(a, head, i0 + rows - 1);
        product(&(struct product){.M = rows,
                                  .N = width,
                                  .K = d,
                                  .alpha = a->scale,
                                  .a = f->q + (head->q_row + i0) * f->ld_q + head->h * d,
                                  .a_row = f->ld_q,
                                  .a_column = 1,
                                  .b = scratch->k_transposed,
                                  .ld_b = kw,
                                  .y = scratch->scores,
                                  .ld_y = kw});
        if (drops)
            draw_factors(scratch->factors, a, head, i0, rows);
        for (int64_t i = 0; i < rows; i++) {
            float *p = scratch->scores + i * kw;
            const float *factors = scratch->factors + i * head->k_len;
            const int64_t count = visible(a, head, i0 + i);
            const float lse = softmax_row(p, count, width);
            if (f->saved)
                f->saved[(head->q_row + i0 + i) * a->heads + head->h] = lse;
            if (drops)
#pragma omp simd
                for (int64_t j = 0; j < padded(count); j++)
                    p[j] *= factors[j];
        }
        product(&(struct product){.M = rows,
                                  .N = d,
                                  .K = width,
                                  .alpha = 1,
                                  .a = scratch->scores,
                                  .a_row = kw,
                                  .a_column = 1,
                                  .b = v.at,
                                  .ld_b = v.ld,
                                  .y = f->out + (head->q_row + i0) * f->ld_out + head->h * d,
                                  .ld_y = f->ld_out});
    }
}

/* -- forward by panels -- */

enum { PANELS_KEYS = 128, PANELS_QUERIES = 32 }; /* from so many on */

static bool takes_panels(const struct forward *f, int64_t q_len, int64_t k_len)
{
    return f->form && !f->saved && !f->a->causal && dropout_is_off(f->a->dropout) &&
           q_len >= PANELS_QUERIES && k_len >= PANELS_KEYS;
}

/* A thread's scratch, in bytes; wide: v transposed before it is in strips, then scores. */
struct panels_scratch {
    char *k, *v;    /* strips of keys (k_len,d), of values transposed (d,k_len) */
    char *q, *p;    /* panels of query rows: q (d), probabilities (k_len) */
    float *wide;    /* (d or panel, padded k_len) */
    float *product; /* (d in whole strips, panel) */
};

/* Where the parts begin, in their order, k at 0; and the bytes of all. */
struct panels_layout {
    size_t v, q, p, wide, product, bytes;
};

static struct panels_layout panels_layout(const struct panels_form *form,
                                          const struct ops_attention *a)
{
    const int64_t d = a->head_dim, keys = a->k_len_max,
                  rows = panels_strips(form, keys) * form->strip;
    struct panels_layout at = {.v = (size_t)panels_strips(form, keys) * form->strip_bytes(d)};
    at.q = at.v + (size_t)panels_strips(form, d) * form->strip_bytes(keys);
    at.p = at.q + form->panel_bytes(d);
    at.wide = at.p + form->panel_bytes(keys);
    at.product =
        at.wide + (size_t)(bl_max(d, form->panel) * bl_max(rows, padded(keys))) * sizeof(float);
    at.bytes =
        at.product + (size_t)(panels_strips(form, d) * form->strip * form->panel) * sizeof(float);
    return at;
}

static struct panels_scratch panels_scratch(const struct panels_form *form,
                                            const struct ops_attention *a, char *memory)
{
    const struct panels_layout at = panels_layout(form, a);
    return (struct panels_scratch){.k = memory,
                                   .v = memory + at.v,
                                   .q = memory + at.q,
                                   .p = memory + at.p,
                                   .wide = (float *)(memory + at.wide),
                                   .product = (float *)(memory + at.product)};
}

/* scores (keys, panel) becomes e^(scale (x - the column's largest)), scale > 0; sums of the columns. `panel` is a constant at
 * each call. */
static inline __attribute__((always_inline)) void exp_panel(float *scores, float *sums, float scale,
                                                            int64_t keys, int panel)
{
    float most[PANELS_PANEL_MAX];
    for (int c = 0; c < panel; c++) {
        most[c] = -INFINITY;
        sums[c] = 0;
    }
    for (int64_t j = 0; j < keys; j++)
#pragma omp simd
        for (int c = 0; c < panel; c++)
            most[c] = scores[j * panel + c] > most[c] ? scores[j * panel + c] : most[c];
    for (int64_t j = 0; j < keys; j++)
#pragma omp simd
        for (int c = 0; c < panel; c++) {
            const float e = f32_exp(scale * (scores[j * panel + c] - most[c]));
            scores[j * panel + c] = e;
            sums[c] += e;
        }
}

static void exp_columns(float *scores, float *sums, float scale, int64_t keys, int64_t panel)
{
    if (panel == PANELS_PANEL_MIN)
        exp_panel(scores, sums, scale, keys, PANELS_PANEL_MIN);
    else
        exp_panel(scores, sums, scale, keys, PANELS_PANEL_MAX);
}

/* One query head; scratch holds its keys and values. */
static void panels_head(const struct forward *f, const struct head *head,
                        const struct panels_scratch *scratch)
{
    const struct panels_form *form = f->form;
    const int64_t d = f->a->head_dim, keys = head->k_len, panel = form->panel;
    float sums[PANELS_PANEL_MAX];
    for (int64_t i0 = 0; i0 < head->q_len; i0 += panel) {
        const int64_t rows = bl_min(panel, head->q_len - i0);
        struct panels_fetch nothing = {.at = scratch->k};
        form->load_panels(scratch->q, f->q + (head->q_row + i0) * f->ld_q + head->h * d, BL_F32,
                          f->ld_q, false, rows, d);
        form->multiply(scratch->wide, scratch->k, panels_strips(form, keys), d, scratch->q, 0,
                       panels_blocks(form, d), &nothing);
        exp_columns(scratch->wide, sums, f->a->scale, keys, panel);
        form->load_panels(scratch->p, scratch->wide, BL_F32, panel, true, panel, keys);
        form->multiply(scratch->product, scratch->v, panels_strips(form, d), keys, scratch->p, 0,
                       panels_blocks(form, keys), &nothing);
        for (int64_t i = 0; i < rows; i++) {
            float *out = f->out + (head->q_row + i0 + i) * f->ld_out + head->h * d;
            const float scale = 1 / sums[i];
            for (int64_t c = 0; c < d; c++)
                out[c] = scratch->product[c * panel + i] * scale;
        }
    }
}

static void panels_group(const struct forward *f, int64_t s, int64_t kv, char *memory)
{
    const struct panels_form *form = f->form;
    const struct ops_attention *a = f->a;
    const int64_t d = a->head_dim, group = a->heads / a->kv_heads, first = a->k_start[s];
    const struct panels_scratch scratch = panels_scratch(form, a, memory);
    form->load_strips(scratch.k, f->k + first * f->ld_k + kv * d, f->ld_k, a->k_len[s], d);
    pack_transposed(scratch.wide, padded(a->k_len[s]), f->v + first * f->ld_v + kv * d, f->ld_v,
                    a->k_len[s], d);
    form->load_strips(scratch.v, scratch.wide, padded(a->k_len[s]), d, a->k_len[s]);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
        const struct head head = head_of(a, s, h);
        panels_head(f, &head, &scratch);
    }
}

/* -- forward, either way -- */

static void forward_group(const void *job, int64_t s, int64_t kv, float *memory)
{
    const struct forward *f = job;
    const struct ops_attention *a = f->a;
    if (takes_panels(f, a->q_len[s], a->k_len[s])) {
        panels_group(f, s, kv, (char *)memory);
        return;
    }
    const struct forward_scratch scratch = forward_scratch(a, memory);
    const int64_t d = a->head_dim, group = a->heads / a->kv_heads, first = a->k_start[s];
    pack_transposed(scratch.k_transposed, padded(a->k_len[s]), f->k + first * f->ld_k + kv * d,
                    f->ld_k, a->k_len[s], d);
    const struct panel v =
        panel_of(scratch.v, f->v + first * f->ld_v + kv * d, f->ld_v, a->k_len[s], d);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
        const struct head head = head_of(a, s, h);
        forward_head(f, &head, &scratch, v);
    }
}

static void attention_forward(struct ops *self, act *out, int64_t ld_out, float *saved,
                              const act *q, int64_t ld_q, const act *k, int64_t ld_k, const act *v,
                              int64_t ld_v, const struct ops_attention *a)
{
    const struct forward f = {.out = cpu_f32(out),
                              .saved = saved,
                              .q = cpu_const_f32(q),
                              .k = cpu_const_f32(k),
                              .v = cpu_const_f32(v),
                              .ld_out = ld_out,
                              .ld_q = ld_q,
                              .ld_k = ld_k,
                              .ld_v = ld_v,
                              .a = a,
                              .form = cpu_of(self)->form};
    size_t floats = forward_floats(a);
    if (takes_panels(&f, a->q_len_max, a->k_len_max))
        floats = bl_max(floats, panels_layout(f.form, a).bytes / sizeof(float));
    each_group(cpu_of(self), a, forward_group, &f, floats, work_of(a));
}

/* -- backward -- */

struct backward {
    float *d_q, *d_k, *d_v;
    const float *d_out, *out, *saved, *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
    const struct ops_attention *a;
};

struct backward_scratch {
    float *k_transposed, *v_transposed; /* (d, kw) */
    float *k;                           /* (k_len_max, dw) */
    float *p, *d_p;                     /* (BLOCK, kw) */
    float *q, *d_out;                   /* (BLOCK, dw) */
    float *factors;                     /* (BLOCK, kw) */
};

static size_t backward_floats(const struct ops_attention *a)
{
    const int64_t kw = padded(a->k_len_max), dw = padded(a->head_dim);
    return (size_t)((2 * a->head_dim + 3 * BLOCK + 1) * kw + (a->k_len_max + 2 * BLOCK) * dw);
}

static struct backward_scratch backward_scratch(const struct ops_attention *a, float *at)
{
    const int64_t kw = padded(a->k_len_max), dw = padded(a->head_dim);
    struct backward_scratch s = {.k_transposed = at};
    s.v_transposed = s.k_transposed + a->head_dim * kw;
    s.k = s.v_transposed + a->head_dim * kw;
    s.p = s.k + a->k_len_max * dw;
    s.d_p = s.p + BLOCK * kw;
    s.q = s.d_p + BLOCK * kw;
    s.d_out = s.q + BLOCK * dw;
    s.factors = s.d_out + BLOCK * dw;
    return s;
}

/* Row i of a head: p, which holds scores, becomes m p (for d_v), and d_p, which holds d_o v, d_s.
 * factors NULL: no dropout. */
static void backward_row(const struct backward *b, const struct head *head, int64_t i, float *p,
                         float *d_p, const float *factors, int64_t width)
{
    const struct ops_attention *a = b->a;
    const int64_t row = head->q_row + i, end = mask_row(p, visible(a, head, i));
    const float *d_out = b->d_out + row * b->ld_out + head->h * a->head_dim;
    const float *out = b->out + row * b->ld_out + head->h * a->head_dim;
    const float lse = b->saved[row * a->heads + head->h], scale = a->scale;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < a->head_dim; c++)
        dot += d_out[c] * out[c];
    if (factors)
#pragma omp simd
        for (int64_t j = 0; j < end; j++) {
            float prob = f32_exp(p[j] - lse);
            d_p[j] = prob * (factors[j] * d_p[j] - dot) * scale;
            p[j] = prob * factors[j];
        }
    else
#pragma omp simd
        for (int64_t j = 0; j < end; j++) {
            p[j] = f32_exp(p[j] - lse);
            d_p[j] = p[j] * (d_p[j] - dot) * scale;
        }
    for (int64_t j = end; j < width; j++)
        p[j] = d_p[j] = 0;
}

/* One query head: d_q written, d_k and d_v (of its key/value head) added to. */
static void backward_head(const struct backward *b, const struct head *head, float *d_k, float *d_v,
                          const struct backward_scratch *scratch, struct panel k)
{
    const struct ops_attention *a = b->a;
    const int64_t d = a->head_dim, kw = padded(head->k_len);
    const bool drops = !dropout_is_off(a->dropout);
    for (int64_t i0 = 0; i0 < head->q_len; i0 += BLOCK) {
        const int64_t rows = bl_min(BLOCK, head->q_len - i0);
        const int64_t width = visible(a, head, i0 + rows - 1);
        const float *q_at = b->q + (head->q_row + i0) * b->ld_q + head->h * d;
        const float *d_out_at = b->d_out + (head->q_row + i0) * b->ld_out + head->h * d;
        struct product scores = {
            .M = rows, .N = width, .K = d, .a_column = 1, .ld_b = kw, .ld_y = kw};
        scores.alpha = a->scale; /* p = scale q k^T */
        scores.a = q_at;
        scores.a_row = b->ld_q;
        scores.b = scratch->k_transposed;
        scores.y = scratch->p;
        product(&scores);
        scores.alpha = 1; /* d_p = d_o v^T */
        scores.a = d_out_at;
        scores.a_row = b->ld_out;
        scores.b = scratch->v_transposed;
        scores.y = scratch->d_p;
        product(&scores);
        if (drops)
            draw_factors(scratch->factors, a, head, i0, rows);
        for (int64_t i = 0; i < rows; i++)
            backward_row(b, head, i0 + i, scratch->p + i * kw, scratch->d_p + i * kw,
                         drops ? scratch->factors + i * head->k_len : NULL, width);
        product(&(struct product){.M = rows, /* d_q = d_s k */
                                  .N = d,
                                  .K = width,
                                  .alpha = 1,
                                  .a = scratch->d_p,
                                  .a_row = kw,
                                  .a_column = 1,
                                  .b = k.at,
                                  .ld_b = k.ld,
                                  .y = b->d_q + (head->q_row + i0) * b->ld_q + head->h * d,
                                  .ld_y = b->ld_q});
        const struct panel q = panel_of(scratch->q, q_at, b->ld_q, rows, d);
        const struct panel d_out = panel_of(scratch->d_out, d_out_at, b->ld_out, rows, d);
        struct product sums = {
            .M = width, .N = d, .K = rows, .alpha = 1, .a_row = 1, .a_column = kw, .add = true};
        sums.a = scratch->d_p; /* d_k += d_s^T q */
        sums.b = q.at;
        sums.ld_b = q.ld;
        sums.y = d_k;
        sums.ld_y = b->ld_k;
        product(&sums);
        sums.a = scratch->p; /* d_v += (m p)^T d_o */
        sums.b = d_out.at;
        sums.ld_b = d_out.ld;
        sums.y = d_v;
        sums.ld_y = b->ld_v;
        product(&sums);
    }
}

static void backward_group(const void *job, int64_t s, int64_t kv, float *memory)
{
    const struct backward *b = job;
    const struct ops_attention *a = b->a;
    const struct backward_scratch scratch = backward_scratch(a, memory);
    const int64_t d = a->head_dim, group = a->heads / a->kv_heads, k_len = a->k_len[s];
    const int64_t k_at = a->k_start[s] * b->ld_k + kv * d, v_at = a->k_start[s] * b->ld_v + kv * d;
    pack_transposed(scratch.k_transposed, padded(k_len), b->k + k_at, b->ld_k, k_len, d);
    pack_transposed(scratch.v_transposed, padded(k_len), b->v + v_at, b->ld_v, k_len, d);
    const struct panel k = panel_of(scratch.k, b->k + k_at, b->ld_k, k_len, d);
    for (int64_t j = 0; j < k_len; j++) {
        memset(b->d_k + k_at + j * b->ld_k, 0, (size_t)d * sizeof *b->d_k);
        memset(b->d_v + v_at + j * b->ld_v, 0, (size_t)d * sizeof *b->d_v);
    }
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
        const struct head head = head_of(a, s, h);
        backward_head(b, &head, b->d_k + k_at, b->d_v + v_at, &scratch, k);
    }
}

static void attention_backward(struct ops *self, act *d_q, act *d_k, act *d_v, const act *d_out,
                               const act *out, int64_t ld_out, const float *saved, const act *q,
                               int64_t ld_q, const act *k, int64_t ld_k, const act *v, int64_t ld_v,
                               const struct ops_attention *a)
{
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
    each_group(cpu_of(self), a, backward_group, &b, backward_floats(a), 3 * work_of(a));
}

/* -- probabilities, for pictures -- */

static void attention_probs(struct ops *self, float *probs, const act *q_, int64_t ld_q,
                            const act *k_, int64_t ld_k, const struct ops_attention *a)
{
    struct cpu *cpu = cpu_of(self);
    const int64_t d = a->head_dim, group = a->heads / a->kv_heads, width = a->k_len_max;
    size_t stride;
    char *scratch =
        cpu_scratch_threads(cpu, CPU_SCRATCH_INNER, (size_t)padded(width) * sizeof(float), &stride);
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
            for (int64_t j = 0; j < count; j++) {
                float dot = 0;
#pragma omp simd reduction(+ : dot)
                for (int64_t c = 0; c < d; c++)
                    dot += q[c] * k[j * ld_k + c];
                p[j] = dot * a->scale;
            }
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
