/* worker/model/llm.c - Llama (Touvron et al. 2023): pre-norm blocks of grouped-query attention and
 * SwiGLU.
 *
 * x1 = x + o(attention(rope(qkv(norm1(x)))));  y = x1 + down(silu(gate) * up),  [gate up] =
 * gate_up(norm2(x1))
 *
 * Weights are frozen, so no linear layer keeps its input. Backward needs what the norms, the
 * attention and SwiGLU need: x, qkv, the attention's output and log-sum-exp, x1, [gate up]. */
#include "worker/model/llm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "worker/model/frozen.h"

struct llm_layer {
    struct frozen_norm norm1, norm2;
    struct frozen_linear qkv, o, gate_up, down;
};

/* What backward needs of one layer's forward; x1 and gate_up hold the last layer's kept rows only.
 */
struct llm_layer_saved {
    act *x, *qkv, *out, *x1, *gate_up;
    dev_f32 *norm1, *lse, *norm2;
};

struct llm {
    struct ops *ops;
    struct hf_llm config;
    struct safetensors *file;
    struct arena constants;
    struct frozen_linear embedding, head; /* head.matrix NULL: tied to embedding */
    dev_f32 *inverse_frequency;           /* (head_dim/2) */
    struct llm_layer *layers;
    struct frozen_norm final;
    int64_t qkv_width, q_width,
        kv_width; /* of a packed row, of its queries, of its keys (or values) */
    struct llm_layer_saved
        *saved; /* (layers) of the last forward that saved; SAVE_INPUTS: all share what is not x */
    enum saving saving;
};

/* -- opening -- */

static int open_norm(const struct llm *llm, const struct frozen_source *source,
                     struct frozen_norm *ret, int64_t layer, enum hf_role role,
                     struct bl_error *err)
{
    return frozen_norm_open(source, ret, layer, role, llm->config.norm, llm->config.norm_eps, err);
}

static int open_layer(struct llm *llm, const struct frozen_source *source, int64_t index,
                      struct bl_error *err)
{
    static const enum hf_role qkv[] = {HF_QUERY, HF_KEY, HF_VALUE}, gate_up[] = {HF_GATE, HF_UP},
                              out = HF_OUT, down = HF_DOWN;
    struct llm_layer *layer = &llm->layers[index];
    BL_TRY(open_norm(llm, source, &layer->norm1, index, HF_NORM1, err));
    BL_TRY(frozen_linear_open(source, &layer->qkv, index, qkv, 3, err));
    BL_TRY(frozen_linear_open(source, &layer->o, index, &out, 1, err));
    BL_TRY(open_norm(llm, source, &layer->norm2, index, HF_NORM2, err));
    BL_TRY(frozen_linear_open(source, &layer->gate_up, index, gate_up, 2, err));
    return frozen_linear_open(source, &layer->down, index, &down, 1, err);
}

/* theta^(-2i/head_dim); "llama3" (Llama 3.1's release) divides the slow ones by `factor`, leaves
 * the fast ones, and blends between: wavelengths against the original context over low_freq_factor
 * and high_freq_factor. */
static int open_rope(struct llm *llm, struct bl_error *err)
{
    const struct hf_llm *config = &llm->config;
    int64_t half = config->head_dim / 2;
    bl_autofree float *frequency = malloc((size_t)half * sizeof *frequency);
    if (!frequency)
        return bl_fail(err, BL_ENOMEM, "no memory for RoPE");
    for (int64_t i = 0; i < half; i++) {
        float plain =
            (float)(1 / pow(config->rope_theta, (double)(2 * i) / (double)config->head_dim));
        frequency[i] = plain;
        if (config->rope_factor == 1)
            continue;
        float original = (float)config->rope_original_positions;
        float low = original / config->rope_low_freq_factor,
              high = original / config->rope_high_freq_factor;
        float wavelength = 2 * (float)M_PI / plain;
        float blend = (original / wavelength - config->rope_low_freq_factor) /
                      (config->rope_high_freq_factor - config->rope_low_freq_factor);
        if (wavelength > low)
            frequency[i] = plain / config->rope_factor;
        else if (wavelength >= high)
            frequency[i] = (1 - blend) * plain / config->rope_factor + blend * plain;
    }
    return arena_f32_from(&llm->constants, frequency, half, &llm->inverse_frequency, err);
}

/* The embedding and, unless tied, the head. */
static int open_vocabulary(struct llm *llm, const struct frozen_source *source,
                           struct bl_error *err)
{
    static const enum hf_role head = HF_HEAD;
    BL_TRY(frozen_table_open(source, &llm->embedding,
                             hf_llm_embedding(&llm->config, source->shapes, llm->file),
                             llm->config.tied, err));
    return llm->config.tied ? 0 : frozen_linear_open(source, &llm->head, 0, &head, 1, err);
}

static int open_tensors(struct llm *llm, struct bl_error *err)
{
    struct hf_shapes shapes;
    hf_llm_shapes(&llm->config, llm->file, &shapes);
    struct frozen_source source = {
        .ops = llm->ops, .file = llm->file, .shapes = &shapes, .constants = &llm->constants};
    BL_TRY(open_vocabulary(llm, &source, err));
    for (int64_t i = 0; i < llm->config.layers; i++)
        BL_TRY(open_layer(llm, &source, i, err));
    BL_TRY(open_norm(llm, &source, &llm->final, 0, HF_FINAL_NORM, err));
    return open_rope(llm, err);
}

int llm_open(struct ops *ops, const char *folder, const struct hf_llm *config, struct llm **ret,
             struct bl_error *err)
{
    bl_auto(llm) struct llm *llm = calloc(1, sizeof *llm);
    if (!llm)
        return bl_fail(err, BL_ENOMEM, "no memory for a language model");
    llm->ops = ops;
    llm->config = *config;
    llm->constants.ops = ops;
    llm->q_width = config->heads * config->head_dim;
    llm->kv_width = config->kv_heads * config->head_dim;
    llm->qkv_width = llm->q_width + 2 * llm->kv_width;
    llm->layers = calloc((size_t)config->layers, sizeof *llm->layers);
    llm->saved = calloc((size_t)config->layers, sizeof *llm->saved);
    if (!llm->layers || !llm->saved)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld layers", (long long)config->layers);
    BL_TRY(safetensors_open(folder, &llm->file, err));
    llm->config.tied = hf_llm_tied(config, llm->file);
    if (open_tensors(llm, err) < 0)
        return bl_error_file(err, folder);
    *ret = bl_take(&llm);
    return 0;
}

void llm_free(struct llm **llm)
{
    struct llm *l = *llm;
    if (!l)
        return;
    for (int64_t i = 0; l->layers && i < l->config.layers; i++) {
        frozen_linear_close(l->ops, &l->layers[i].qkv);
        frozen_linear_close(l->ops, &l->layers[i].o);
        frozen_linear_close(l->ops, &l->layers[i].gate_up);
        frozen_linear_close(l->ops, &l->layers[i].down);
    }
    frozen_linear_close(l->ops, &l->embedding);
    frozen_linear_close(l->ops, &l->head);
    arena_close(&l->constants);
    safetensors_free(&l->file);
    free(l->layers);
    free(l->saved);
    free(l);
    *llm = NULL;
}

int64_t llm_cache_width(const struct llm *llm)
{
    return 2 * llm->kv_width;
}

int64_t llm_cache_pieces(const struct llm *llm)
{
    return 2 * llm->config.kv_heads;
}

/* A packed row is heads + 2 kv_heads pieces of head_dim; the last 2 kv_heads of each go to the cache. */
void llm_find_pieces(const struct llm *llm, int32_t *pieces, int64_t R)
{
    const int64_t heads = llm->config.heads, cached = llm_cache_pieces(llm);
    for (int64_t i = 0; i < R * cached; i++)
        pieces[i] = (int32_t)(i / cached * (heads + cached) + heads + i % cached);
}

/* -- layers -- */

static struct ops_attention causal_attention(const struct llm *llm, const struct sequences *q,
                                             const struct sequences *k)
{
    const struct hf_llm *config = &llm->config;
    struct ops_attention attention =
        attention_over(q, k, config->heads, config->kv_heads, config->head_dim);
    attention.causal = true;
    return attention;
}

/* Rotates the queries and keys of packed rows: their heads stand side by side. */
static void rotate(const struct llm *llm, act *qkv, const struct llm_rows *rows, int direction)
{
    const struct hf_llm *config = &llm->config;
    llm->ops->rope(llm->ops, qkv, llm->qkv_width, rows->position, llm->inverse_frequency, rows->R,
                   config->heads + config->kv_heads, config->head_dim, direction);
}

/* The buffers of one layer: fresh ones for each layer when backward follows, else shared by all. */
static int take_buffers(const struct llm *llm, struct arena *arena, const struct llm_rows *rows,
                        int64_t kept, bool norms, struct llm_layer_saved *ret, struct bl_error *err)
{
    const struct hf_llm *config = &llm->config;
    struct llm_layer_saved s = {0};
    BL_TRY(arena_act(arena, rows->R * llm->qkv_width, &s.qkv, err));
    BL_TRY(arena_act(arena, rows->R * llm->q_width, &s.out, err));
    BL_TRY(arena_act(arena, kept * config->hidden, &s.x1, err));
    BL_TRY(arena_act(arena, kept * 2 * config->intermediate, &s.gate_up, err));
    if (norms) {
        BL_TRY(arena_f32(arena, frozen_norm_saved(&llm->final, rows->R), &s.norm1, err));
        BL_TRY(arena_f32(arena, rows->R * config->heads, &s.lse, err));
        BL_TRY(arena_f32(arena, frozen_norm_saved(&llm->final, kept), &s.norm2, err));
    }
    *ret = s;
    return 0;
}

/* Attention over the cache, which first takes this call's keys and values out of the packed rows.
 */
static int attend_cached(const struct llm *llm, struct arena *arena,
                         const struct llm_layer_saved *s, const struct llm_rows *rows,
                         const struct llm_cache *cache, int64_t layer, struct bl_error *err)
{
    struct ops *ops = llm->ops;
    const struct hf_llm *config = &llm->config;
    int64_t width = llm_cache_width(llm);
    struct arena_mark mark = arena_mark(arena);
    act *kv;
    BL_TRY(arena_act(arena, rows->R * width, &kv, err));
    ops->gather_rows(ops, kv, s->qkv, cache->pieces, rows->R * llm_cache_pieces(llm),
                     config->head_dim);
    ops->scatter_rows(ops, cache->layers[layer], kv, cache->write, rows->R, width);
    arena_release(arena, mark);
    struct ops_attention attention = causal_attention(llm, &rows->sequences, &cache->keys);
    ops->attention_forward(ops, s->out, llm->q_width, NULL, s->qkv, llm->qkv_width,
                           cache->layers[layer], width,
                           ops_at(ops, cache->layers[layer], llm->kv_width), width, &attention);
    return 0;
}

static int attend(const struct llm *llm, struct arena *arena, const struct llm_layer_saved *s,
                  const struct llm_rows *rows, const struct llm_cache *cache, int64_t layer,
                  struct bl_error *err)
{
    struct ops *ops = llm->ops;
    if (cache)
        return attend_cached(llm, arena, s, rows, cache, layer, err);
    struct ops_attention attention = causal_attention(llm, &rows->sequences, &rows->sequences);
    ops->attention_forward(ops, s->out, llm->q_width, s->lse, s->qkv, llm->qkv_width,
                           ops_at(ops, s->qkv, llm->q_width), llm->qkv_width,
                           ops_at(ops, s->qkv, llm->q_width + llm->kv_width), llm->qkv_width,
                           &attention);
    return 0;
}

/* y (kept, D) from s->x (R, D), or only what is saved where y is NULL; keep NULL: all rows. */
static int layer_forward(const struct llm *llm, struct arena *arena, int64_t index, act *y,
                         const struct llm_layer_saved *s, const struct llm_rows *rows,
                         const struct llm_cache *cache, const dev_i32 *keep, struct bl_error *err)
{
    struct ops *ops = llm->ops;
    const struct llm_layer *layer = &llm->layers[index];
    int64_t R = rows->R, D = llm->config.hidden, I = llm->config.intermediate,
            kept = keep ? rows->kept : R;
    struct arena_mark mark = arena_mark(arena);
    act *a, *h;
    BL_TRY(arena_act(arena, R * D, &a, err));
    BL_TRY(arena_act(arena, kept * I, &h, err));
    frozen_norm_forward(ops, &layer->norm1, a, s->norm1, s->x, R);
    frozen_forward(ops, &layer->qkv, s->qkv, a, R, OPS_NONE);
    rotate(llm, s->qkv, rows, 1);
    BL_TRY(attend(llm, arena, s, rows, cache, index, err));
    const act *x = s->x, *out = s->out;
    if (keep) {
        act *x_kept, *out_kept;
        BL_TRY(arena_act(arena, kept * D, &x_kept, err));
        BL_TRY(arena_act(arena, kept * llm->q_width, &out_kept, err));
        ops->gather_rows(ops, x_kept, x, keep, kept, D);
        ops->gather_rows(ops, out_kept, out, keep, kept, llm->q_width);
        x = x_kept;
        out = out_kept;
    }
    frozen_add(ops, &layer->o, s->x1, x, out, kept);
    frozen_norm_forward(ops, &layer->norm2, a, s->norm2, s->x1, kept);
    frozen_forward(ops, &layer->gate_up, s->gate_up, a, kept, OPS_NONE);
    if (y) {
        ops->swiglu_forward(ops, h, s->gate_up, kept, I);
        frozen_add(ops, &layer->down, y, s->x1, h, kept);
    }
    arena_release(arena, mark);
    return 0;
}

/* d_x (R, D) from d_y (kept, D), which becomes the gradient at x1. */
static int layer_backward(const struct llm *llm, struct arena *arena, int64_t index, act *d_x,
                          act *d_y, const struct llm_layer_saved *s, const struct llm_rows *rows,
                          const dev_i32 *keep, struct bl_error *err)
{
    struct ops *ops = llm->ops;
    const struct llm_layer *layer = &llm->layers[index];
    int64_t R = rows->R, D = llm->config.hidden, I = llm->config.intermediate,
            kept = keep ? rows->kept : R;
    int64_t q_width = llm->q_width, qkv_width = llm->qkv_width;
    struct arena_mark mark = arena_mark(arena);
    act *d_a, *d_h, *d_gate_up, *d_out, *d_qkv;
    BL_TRY(arena_act(arena, R * D, &d_a, err));
    BL_TRY(arena_act(arena, kept * I, &d_h, err));
    BL_TRY(arena_act(arena, kept * 2 * I, &d_gate_up, err));
    BL_TRY(arena_act(arena, R * q_width, &d_out, err));
    BL_TRY(arena_act(arena, R * qkv_width, &d_qkv, err));

    ops->linear_backward_input(ops, d_h, d_y, layer->down.matrix, kept, false);
    ops->swiglu_backward(ops, d_gate_up, d_h, s->gate_up, kept, I);
    ops->linear_backward_input(ops, d_a, d_gate_up, layer->gate_up.matrix, kept, false);
    frozen_norm_backward(ops, &layer->norm2, d_y, d_a, s->x1, s->norm2, kept, true);

    if (keep) {
        act *d_out_kept;
        BL_TRY(arena_act(arena, kept * q_width, &d_out_kept, err));
        ops->linear_backward_input(ops, d_out_kept, d_y, layer->o.matrix, kept, false);
        ops->zero(ops, d_out, (size_t)(R * q_width) * ops->act_bytes);
        ops->scatter_rows(ops, d_out, d_out_kept, keep, kept, q_width);
        ops->zero(ops, d_x, (size_t)(R * D) * ops->act_bytes);
        ops->scatter_rows(ops, d_x, d_y, keep, kept, D);
    } else {
        ops->linear_backward_input(ops, d_out, d_y, layer->o.matrix, R, false);
        if (d_x != d_y)
            ops->copy(ops, d_x, d_y, (size_t)(R * D) * ops->act_bytes);
    }
    struct ops_attention attention = causal_attention(llm, &rows->sequences, &rows->sequences);
    const act *k = ops_at(ops, s->qkv, q_width), *v = ops_at(ops, s->qkv, q_width + llm->kv_width);
    ops->attention_backward(ops, d_qkv, ops_at(ops, d_qkv, q_width),
                            ops_at(ops, d_qkv, q_width + llm->kv_width), d_out, s->out, q_width,
                            s->lse, s->qkv, qkv_width, k, qkv_width, v, qkv_width, &attention);
    rotate(llm, d_qkv, rows, -1);
    ops->linear_backward_input(ops, d_a, d_qkv, layer->qkv.matrix, R, false);
    frozen_norm_backward(ops, &layer->norm1, d_x, d_a, s->x, s->norm1, R, true);
    arena_release(arena, mark);
    return 0;
}

/* -- the whole -- */

void llm_embed(const struct llm *llm, act *y, const dev_i32 *ids, int64_t R)
{
    llm->ops->embed(llm->ops, y, llm->embedding.matrix, ids, R);
}

/* Each layer's output is the next one's x: a buffer of its own when saved, else in place. The last
 * one gives y. */
int llm_forward(struct llm *llm, struct arena *arena, act *y, act *x, const struct llm_rows *rows,
                const struct llm_cache *cache, enum saving saving, struct bl_error *err)
{
    const int64_t layers = llm->config.layers;
    struct arena_mark mark = arena_mark(arena);
    struct llm_layer_saved shared = {0};
    if (saving != SAVE_ALL)
        BL_TRY(take_buffers(llm, arena, rows, bl_max(rows->R, rows->kept), saving == SAVE_INPUTS,
                            &shared, err));
    for (int64_t i = 0; i < layers; i++) {
        const bool last = i == layers - 1;
        struct llm_layer_saved s = shared;
        if (saving == SAVE_ALL)
            BL_TRY(take_buffers(llm, arena, rows, last ? rows->kept : rows->R, true, &s, err));
        s.x = x;
        if (saving != SAVE_NOTHING) {
            llm->saved[i] = s;
            if (!last)
                BL_TRY(arena_act(arena, rows->R * llm->config.hidden, &x, err));
        }
        BL_TRY(layer_forward(llm, arena, i, last ? y : x, &s, rows, cache, last ? rows->keep : NULL,
                             err));
    }
    if (saving == SAVE_NOTHING)
        arena_release(arena, mark);
    else
        llm->saving = saving;
    return 0;
}

int llm_backward(const struct llm *llm, struct arena *arena, act *d_x, act *d_y,
                 const struct llm_rows *rows, struct bl_error *err)
{
    const int64_t last = llm->config.layers - 1;
    BL_TRY(layer_backward(llm, arena, last, d_x, d_y, &llm->saved[last], rows, rows->keep, err));
    for (int64_t i = last - 1; i >= 0; i--) {
        const struct llm_layer_saved *s = &llm->saved[i];
        if (llm->saving == SAVE_INPUTS)
            BL_TRY(layer_forward(llm, arena, i, NULL, s, rows, NULL, NULL, err));
        BL_TRY(layer_backward(llm, arena, i, d_x, d_x, s, rows, NULL, err));
    }
    return 0;
}

static const struct ops_matrix *head_matrix(const struct llm *llm)
{
    return llm->head.matrix ? llm->head.matrix : llm->embedding.matrix;
}

void llm_final_norm(const struct llm *llm, act *h, const act *y, int64_t R)
{
    frozen_norm_forward(llm->ops, &llm->final, h, NULL, y, R);
}

int llm_loss(const struct llm *llm, struct arena *arena, dev_f32 *nll, dev_u8 *correct, act *d_y,
             const act *y, const dev_i32 *labels, int64_t R, struct bl_error *err)
{
    struct ops *ops = llm->ops;
    int64_t D = llm->config.hidden;
    struct arena_mark mark = arena_mark(arena);
    act *h, *d_h = NULL;
    dev_f32 *saved;
    BL_TRY(arena_act(arena, R * D, &h, err));
    BL_TRY(arena_f32(arena, frozen_norm_saved(&llm->final, R), &saved, err));
    if (d_y)
        BL_TRY(arena_act(arena, R * D, &d_h, err));
    frozen_norm_forward(ops, &llm->final, h, saved, y, R);
    ops->head_loss(ops, nll, correct, d_h, h, head_matrix(llm), labels, R);
    if (d_y)
        frozen_norm_backward(ops, &llm->final, d_y, d_h, y, saved, R, false);
    arena_release(arena, mark);
    return 0;
}

int llm_logits(const struct llm *llm, struct arena *arena, act *logits, const act *y, int64_t R,
               struct bl_error *err)
{
    struct arena_mark mark = arena_mark(arena);
    act *h;
    BL_TRY(arena_act(arena, R * llm->config.hidden, &h, err));
    llm_final_norm(llm, h, y, R);
    llm->ops->linear_forward(llm->ops, logits, NULL, h, head_matrix(llm), NULL, R, OPS_NONE);
    arena_release(arena, mark);
    return 0;
}
