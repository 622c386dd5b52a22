/* worker/model/qformer.c - queries refined by pre-norm blocks:
 *
 *   v = vis_proj(features);  q = query, repeated for each image
 *   q += self_attn(ln1(q));  q += cross_attn(ln2(q), ln2(v));  q += mlp(ln3(q))       per block
 *   y = out_proj(final_ln(q))                                  out_proj only where the widths
 * differ
 *
 * Attention is torch's MultiheadAttention: in_proj_weight holds query, key and value rows under one
 * another. Kept for backward: everything over query rows, and what cross.h says. */
#include "worker/model/qformer.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"

/* Dropout sites: three in each block. */
enum { SITE_SELF, SITE_CROSS, SITE_MLP, SITES_PER_BLOCK };

struct block {
    struct trained_norm ln1, ln3;
    struct trained_linear self_in, self_out; /* (3d,d), (d,d) */
    struct cross_block cross;                /* ln2, and query, key and value projections */
    struct trained_linear cross_out;         /* (d,d) */
    struct trained_linear mlp0, mlp2;        /* (4d,d), (d,4d) */
    int64_t end;                             /* offset behind the block's last tensor */
};

/* What backward needs of one block's forward. q0 is its input, q1 and q2 stand after each
 * attention; a1, a2, a3 are the norms' outputs. */
struct block_saved {
    act *q0, *a1, *qkv, *self, *q1, *a2, *cross_y, *q2, *a3, *pre, *hidden;
    dev_f32 *norm1, *norm2, *norm3, *lse_self;
    struct cross_saved cross;
};

struct qformer {
    struct params *params;
    struct qformer_shape shape;
    int64_t query; /* offset of (K, d_q) */
    struct trained_linear vis_proj, out_proj;
    struct trained_norm final_ln;
    struct block *blocks;
    struct cross cross;
    int64_t head_end, end; /* offsets behind final_ln, and behind query */

    /* Of the last forward that saved. */
    struct block_saved *saved; /* (layers); SAVE_INPUTS: all share what is not q0 */
    enum saving saving;
    int64_t B;
    struct sequences queries;
    const act *features;
    act *v, *q, *normed; /* vis_proj's output; the last block's; final_ln's */
    dev_f32 *norm_final;
};

/* -- opening -- */

/* in_proj_weight: Xavier uniform over (3d, d), biases 0; out_proj.weight as a Linear's. */
static void declare_attention(struct params *p, const char *at, int64_t d, int64_t *ret_weight,
                              int64_t *ret_bias, struct trained_linear *out)
{
    struct param_init xavier = {INIT_UNIFORM, (float)sqrt(6.0 / (double)(4 * d))};
    struct param_init linear = {INIT_UNIFORM, (float)(1 / sqrt((double)d))};
    struct param_init zero = {INIT_CONSTANT, 0};
    int64_t out_weight =
        params_tensor(p, CAPTIONER_QFORMER, at, ".out_proj.weight", 2, d, d, linear);
    int64_t out_bias = params_tensor(p, CAPTIONER_QFORMER, at, ".out_proj.bias", 1, d, 0, zero);
    params_linear_at(p, out, out_weight, out_bias, d, d);
    *ret_weight = params_tensor(p, CAPTIONER_QFORMER, at, ".in_proj_weight", 2, 3 * d, d, xavier);
    *ret_bias = params_tensor(p, CAPTIONER_QFORMER, at, ".in_proj_bias", 1, 3 * d, 0, zero);
}

static int declare_block(struct qformer *qformer, int64_t index, struct bl_error *err)
{
    struct params *p = qformer->params;
    struct block *block = &qformer->blocks[index];
    int64_t d = qformer->shape.width, weight, bias;
    char at[64];
#define AT(name) (snprintf(at, sizeof at, "layers.%d." name, (int)index), at)
    params_linear(p, CAPTIONER_QFORMER, AT("mlp.2"), &block->mlp2, d, 4 * d);
    params_linear(p, CAPTIONER_QFORMER, AT("mlp.0"), &block->mlp0, 4 * d, d);
    params_norm(p, CAPTIONER_QFORMER, AT("ln3"), &block->ln3, d);
    declare_attention(p, AT("cross_attn"), d, &weight, &bias, &block->cross_out);
    BL_TRY(cross_declare(&qformer->cross, p, &block->cross, weight, bias, err));
    params_norm(p, CAPTIONER_QFORMER, AT("ln2"), &block->cross.norm, d);
    declare_attention(p, AT("self_attn"), d, &weight, &bias, &block->self_out);
    params_linear_at(p, &block->self_in, weight, bias, 3 * d, d);
    params_norm(p, CAPTIONER_QFORMER, AT("ln1"), &block->ln1, d);
#undef AT
    block->end = p->view.count;
    return 0;
}

int qformer_open(struct params *params, const struct qformer_shape *shape, struct qformer **ret,
                 struct bl_error *err)
{
    bl_auto(qformer) struct qformer *qformer = calloc(1, sizeof *qformer);
    if (!qformer)
        return bl_fail(err, BL_ENOMEM, "no memory for a Q-Former");
    qformer->params = params;
    qformer->shape = *shape;
    qformer->blocks = calloc((size_t)shape->layers, sizeof *qformer->blocks);
    qformer->saved = calloc((size_t)shape->layers, sizeof *qformer->saved);
    if (!qformer->blocks || !qformer->saved)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld blocks", (long long)shape->layers);
    int64_t d = shape->width;
    const struct cross_shape cross = {shape->queries, shape->heads, shape->vision_tokens, d};
    BL_TRY(cross_open(&qformer->cross, params, &cross, shape->cross, err));
    if (d != shape->out_width)
        params_linear(params, CAPTIONER_QFORMER, "out_proj", &qformer->out_proj, shape->out_width,
                      d);
    params_norm(params, CAPTIONER_QFORMER, "final_ln", &qformer->final_ln, d);
    qformer->head_end = params->view.count;
    for (int64_t i = shape->layers - 1; i >= 0; i--)
        BL_TRY(declare_block(qformer, i, err));
    params_linear(params, CAPTIONER_QFORMER, "vis_proj", &qformer->vis_proj, d,
                  shape->vision_width);
    qformer->query = params_tensor(params, CAPTIONER_QFORMER, "query", "", 2, shape->queries, d,
                                   (struct param_init){INIT_NORMAL, 0});
    qformer->end = params->view.count;
    *ret = bl_take(&qformer);
    return 0;
}

void qformer_free(struct qformer **qformer)
{
    if (!*qformer)
        return;
    for (int64_t i = 0; (*qformer)->blocks && i < (*qformer)->shape.layers; i++)
        cross_block_close(&(*qformer)->blocks[i].cross);
    cross_close(&(*qformer)->cross);
    free((*qformer)->blocks);
    free((*qformer)->saved);
    free(*qformer);
    *qformer = NULL;
}

/* -- blocks -- */

/* *copy = the dropout of one site; NULL when there is none. */
static const struct ops_dropout *dropout_at(const struct qformer *qformer,
                                            const struct ops_dropout *dropout, int64_t block,
                                            uint32_t site, struct ops_dropout *copy)
{
    if (!dropout || qformer->shape.dropout == 0)
        return NULL;
    *copy = *dropout;
    copy->p = qformer->shape.dropout;
    copy->site = (uint32_t)block * SITES_PER_BLOCK + site;
    return copy;
}

static int take_buffers(const struct qformer *qformer, struct arena *arena, int64_t B,
                        struct block_saved *ret, struct bl_error *err)
{
    const struct qformer_shape *shape = &qformer->shape;
    int64_t d = shape->width, R = B * shape->queries;
    struct block_saved s = {0};
    const struct {
        act **p;
        int64_t count;
    } acts[] = {
        {&s.a1, R * d},      {&s.qkv, R * 3 * d},    {&s.self, R * d}, {&s.q1, R * d},
        {&s.a2, R * d},      {&s.cross_y, R * d},    {&s.q2, R * d},   {&s.a3, R * d},
        {&s.pre, R * 4 * d}, {&s.hidden, R * 4 * d},
    };
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        BL_TRY(arena_act(arena, acts[i].count, acts[i].p, err));
    dev_f32 **norms[] = {&s.norm1, &s.norm2, &s.norm3};
    for (int i = 0; i < 3; i++)
        BL_TRY(arena_f32(arena, R * 2, norms[i], err));
    BL_TRY(arena_f32(arena, R * shape->heads, &s.lse_self, err));
    BL_TRY(qformer->cross.form->take(&qformer->cross, arena, &s.cross, err));
    *ret = s;
    return 0;
}

static struct ops_attention self_attention(const struct qformer *qformer,
                                           const struct ops_dropout *dropout)
{
    int64_t heads = qformer->shape.heads;
    struct ops_attention a = attention_over(&qformer->queries, &qformer->queries, heads, heads,
                                            qformer->shape.width / heads);
    a.dropout = dropout;
    return a;
}

/* q (B*K, d) = the block's output from s->q0; NULL: only what is saved */
static int block_forward(struct qformer *qformer, struct arena *arena, int64_t index, act *q,
                         const struct block_saved *s, const struct ops_dropout *dropout,
                         struct bl_error *err)
{
    const struct params *p = qformer->params;
    struct ops *ops = p->ops;
    const struct block *block = &qformer->blocks[index];
    int64_t d = qformer->shape.width, R = qformer->B * qformer->shape.queries;
    struct ops_dropout copy;

    norm_forward(p, &block->ln1, s->a1, s->norm1, s->q0, R);
    linear_forward(p, &block->self_in, s->qkv, NULL, s->a1, R, OPS_NONE);
    struct ops_attention a =
        self_attention(qformer, dropout_at(qformer, dropout, index, SITE_SELF, &copy));
    ops->attention_forward(ops, s->self, d, s->lse_self, s->qkv, 3 * d, ops_at(ops, s->qkv, d),
                           3 * d, ops_at(ops, s->qkv, 2 * d), 3 * d, &a);
    linear_forward(p, &block->self_out, s->q1, NULL, s->self, R, OPS_NONE);
    ops->add(ops, s->q1, s->q1, s->q0, R * d);

    norm_forward(p, &block->cross.norm, s->a2, s->norm2, s->q1, R);
    BL_TRY(qformer->cross.form->forward(
        &qformer->cross, arena, &block->cross, s->cross_y, s->a2, &s->cross,
        dropout_at(qformer, dropout, index, SITE_CROSS, &copy), err));
    linear_forward(p, &block->cross_out, s->q2, NULL, s->cross_y, R, OPS_NONE);
    ops->add(ops, s->q2, s->q2, s->q1, R * d);

    norm_forward(p, &block->ln3, s->a3, s->norm3, s->q2, R);
    linear_forward(p, &block->mlp0, s->hidden, s->pre, s->a3, R, OPS_GELU_ERF);
    if (!q)
        return 0;
    linear_forward(p, &block->mlp2, q, NULL, s->hidden, R, OPS_NONE);
    const struct ops_dropout *mlp = dropout_at(qformer, dropout, index, SITE_MLP, &copy);
    if (mlp)
        ops->dropout(ops, q, q, mlp, qformer->B, qformer->shape.queries, d);
    ops->add(ops, q, q, s->q2, R * d);
    return 0;
}

/* d_q (B*K, d): gradient of the block's output, becomes that of its input. d_v (B*N, d): += or, at
 * first, =. */
static int block_backward(struct qformer *qformer, struct arena *arena, int64_t index, act *d_q,
                          act *d_v, bool accumulate_v, const struct ops_dropout *dropout,
                          struct bl_error *err)
{
    const struct params *p = qformer->params;
    struct ops *ops = p->ops;
    const struct block *block = &qformer->blocks[index];
    const struct block_saved *s = &qformer->saved[index];
    int64_t d = qformer->shape.width, R = qformer->B * qformer->shape.queries;
    struct ops_dropout copy;
    struct arena_mark mark = arena_mark(arena);
    act *d_a, *d_b, *d_hidden, *d_qkv;
    BL_TRY(arena_act(arena, R * d, &d_a, err));
    BL_TRY(arena_act(arena, R * d, &d_b, err));
    BL_TRY(arena_act(arena, R * 4 * d, &d_hidden, err));
    BL_TRY(arena_act(arena, R * 3 * d, &d_qkv, err));

    /* q += dropout(mlp2(gelu(mlp0(ln3(q2))))) */
    const act *d_mlp = d_q;
    const struct ops_dropout *mlp = dropout_at(qformer, dropout, index, SITE_MLP, &copy);
    if (mlp) {
        ops->dropout(ops, d_a, d_q, mlp, qformer->B, qformer->shape.queries, d);
        d_mlp = d_a;
    }
    linear_backward(p, &block->mlp2, d_hidden, d_mlp, s->hidden, R);
    ops->activation_backward(ops, d_hidden, d_hidden, s->pre, OPS_GELU_ERF, R * 4 * d);
    linear_backward(p, &block->mlp0, d_b, d_hidden, s->a3, R);
    norm_backward(p, &block->ln3, d_q, d_b, s->q2, s->norm3, R, true);

    /* q2 = q1 + out(cross(ln2(q1), ln2(v))) */
    linear_backward(p, &block->cross_out, d_a, d_q, s->cross_y, R);
    BL_TRY(qformer->cross.form->backward(
        &qformer->cross, arena, &block->cross, d_b, d_v, accumulate_v, d_a, s->cross_y, s->a2,
        &s->cross, dropout_at(qformer, dropout, index, SITE_CROSS, &copy), err));
    norm_backward(p, &block->cross.norm, d_q, d_b, s->q1, s->norm2, R, true);

    /* q1 = q0 + out(attention(in(ln1(q0)))) */
    linear_backward(p, &block->self_out, d_a, d_q, s->self, R);
    struct ops_attention a =
        self_attention(qformer, dropout_at(qformer, dropout, index, SITE_SELF, &copy));
    ops->attention_backward(ops, d_qkv, ops_at(ops, d_qkv, d), ops_at(ops, d_qkv, 2 * d), d_a,
                            s->self, d, s->lse_self, s->qkv, 3 * d, ops_at(ops, s->qkv, d), 3 * d,
                            ops_at(ops, s->qkv, 2 * d), 3 * d, &a);
    linear_backward(p, &block->self_in, d_a, d_qkv, s->a1, R);
    norm_backward(p, &block->ln1, d_q, d_a, s->q0, s->norm1, R, true);
    arena_release(arena, mark);
    return 0;
}

/* -- the whole -- */

int qformer_forward(struct qformer *qformer, struct arena *arena, act *y, const act *features,
                    int64_t B, const struct ops_dropout *dropout, enum saving saving,
                    struct bl_error *err)
{
    const struct params *p = qformer->params;
    const struct qformer_shape *shape = &qformer->shape;
    int64_t d = shape->width, K = shape->queries, N = shape->vision_tokens;
    struct arena_mark mark = arena_mark(arena);
    qformer->B = B;
    qformer->features = features;
    BL_TRY(sequences_uniform(arena, B, K, &qformer->queries, err));
    BL_TRY(arena_act(arena, B * N * d, &qformer->v, err));
    linear_forward(p, &qformer->vis_proj, qformer->v, NULL, features, B * N, OPS_NONE);
    BL_TRY(cross_begin(&qformer->cross, arena, qformer->v, &qformer->queries, err));

    act *q;
    BL_TRY(arena_act(arena, B * K * d, &q, err));
    p->ops->broadcast_rows(p->ops, q, p->view.values + qformer->query, B, K, d, false);
    struct block_saved shared = {0};
    if (saving != SAVE_ALL)
        BL_TRY(take_buffers(qformer, arena, B, &shared, err));
    for (int64_t i = 0; i < shape->layers; i++) {
        struct block_saved s = shared;
        if (saving == SAVE_ALL)
            BL_TRY(take_buffers(qformer, arena, B, &s, err));
        s.q0 = q;
        if (saving != SAVE_NOTHING) {
            qformer->saved[i] = s;
            BL_TRY(arena_act(arena, B * K * d, &q, err));
        }
        BL_TRY(block_forward(qformer, arena, i, q, &s, dropout, err));
    }
    qformer->q = q;
    act *normed = y;
    bool projected = d != shape->out_width;
    if (projected)
        BL_TRY(arena_act(arena, B * K * d, &normed, err));
    BL_TRY(arena_f32(arena, B * K * 2, &qformer->norm_final, err));
    qformer->normed = normed;
    norm_forward(p, &qformer->final_ln, normed, qformer->norm_final, q, B * K);
    if (projected)
        linear_forward(p, &qformer->out_proj, y, NULL, normed, B * K, OPS_NONE);
    if (saving == SAVE_NOTHING)
        arena_release(arena, mark);
    else
        qformer->saving = saving;
    return 0;
}

int qformer_backward(struct qformer *qformer, struct arena *arena, const act *d_y,
                     const struct ops_dropout *dropout, void (*ready)(void *ctx, int64_t end),
                     void *ctx, struct bl_error *err)
{
    const struct params *p = qformer->params;
    const struct qformer_shape *shape = &qformer->shape;
    int64_t d = shape->width, B = qformer->B, K = shape->queries, N = shape->vision_tokens;
    struct arena_mark mark = arena_mark(arena);
    act *d_q, *d_v, *d_normed;
    BL_TRY(arena_act(arena, B * K * d, &d_q, err));
    BL_TRY(arena_act(arena, B * K * d, &d_normed, err));
    BL_TRY(arena_act(arena, B * N * d, &d_v, err));
    if (d != shape->out_width) {
        linear_backward(p, &qformer->out_proj, d_normed, d_y, qformer->normed, B * K);
        d_y = d_normed;
    }
    norm_backward(p, &qformer->final_ln, d_q, d_y, qformer->q, qformer->norm_final, B * K, false);
    ready(ctx, qformer->head_end);
    BL_TRY(qformer->cross.form->begin_backward(&qformer->cross, arena, err));
    for (int64_t i = shape->layers - 1; i >= 0; i--) {
        if (qformer->saving == SAVE_INPUTS && i < shape->layers - 1)
            BL_TRY(block_forward(qformer, arena, i, NULL, &qformer->saved[i], dropout, err));
        BL_TRY(block_backward(qformer, arena, i, d_q, d_v, i < shape->layers - 1, dropout, err));
        ready(ctx, qformer->blocks[i].end);
    }
    BL_TRY(qformer->cross.form->end_backward(&qformer->cross, arena, d_v, err));
    linear_backward(p, &qformer->vis_proj, NULL, d_v, qformer->features, B * N);
    p->ops->broadcast_rows_backward(p->ops, p->view.grads + qformer->query, d_q, B, K, d);
    ready(ctx, qformer->end);
    arena_release(arena, mark);
    return 0;
}

int qformer_attention(struct qformer *qformer, dev_f32 *probs, struct bl_error *err)
{
    const struct block_saved *s = &qformer->saved[qformer->shape.layers - 1];
    return qformer->cross.form->probs(&qformer->cross, probs, &s->cross, err);
}
