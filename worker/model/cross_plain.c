/* worker/model/cross_plain.c - cross-attention with keys and values of every vision token (cross.h). */
#include "worker/model/cross.h"

static int open(struct cross *cross, struct bl_error *err)
{
    return 0;
}

static int declare(const struct cross *cross, struct params *params, struct cross_block *block,
                   int64_t weight, int64_t bias, struct bl_error *err)
{
    int64_t d = cross->shape.width;
    params_linear_at(params, &block->key_value, weight + d * d, bias + d, 2 * d, d);
    return 0;
}

static int begin(struct cross *cross, struct arena *arena, struct bl_error *err)
{
    return sequences_uniform(arena, cross->B, cross->shape.vision_tokens, &cross->tokens, err);
}

static int take(const struct cross *cross, struct arena *arena, struct cross_saved *ret,
                struct bl_error *err)
{
    int64_t d = cross->shape.width, R = cross->B * cross->shape.queries;
    struct cross_saved s = {0};
    BL_TRY(arena_act(arena, R * d, &s.query, err));
    BL_TRY(arena_act(arena, cross->B * cross->shape.vision_tokens * 2 * d, &s.key_value, err));
    BL_TRY(arena_f32(arena, R * cross->shape.heads, &s.lse, err));
    *ret = s;
    return 0;
}

static struct ops_attention attention_of(const struct cross *cross,
                                         const struct ops_dropout *dropout)
{
    int64_t heads = cross->shape.heads;
    struct ops_attention a =
        attention_over(&cross->queries, &cross->tokens, heads, heads, cross->shape.width / heads);
    a.dropout = dropout;
    return a;
}

static int forward(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                   act *y, const act *x, const struct cross_saved *s,
                   const struct ops_dropout *dropout, struct bl_error *err)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    int64_t d = cross->shape.width, R = cross->B * cross->shape.queries;
    int64_t Rv = cross->B * cross->shape.vision_tokens;
    struct arena_mark mark = arena_mark(arena);
    act *v;
    BL_TRY(arena_act(arena, Rv * d, &v, err));
    norm_forward(p, &block->norm, v, NULL, cross->v, Rv);
    linear_forward(p, &block->key_value, s->key_value, NULL, v, Rv, OPS_NONE);
    arena_release(arena, mark);
    linear_forward(p, &block->query, s->query, NULL, x, R, OPS_NONE);
    struct ops_attention a = attention_of(cross, dropout);
    ops->attention_forward(ops, y, d, s->lse, s->query, d, s->key_value, 2 * d,
                           ops_at(ops, s->key_value, d), 2 * d, &a);
    return 0;
}

static int begin_backward(struct cross *cross, struct arena *arena, struct bl_error *err)
{
    return 0;
}

static int backward(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                    act *d_x, act *d_v, bool accumulate_v, const act *d_y, const act *y,
                    const act *x, const struct cross_saved *s, const struct ops_dropout *dropout,
                    struct bl_error *err)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    int64_t d = cross->shape.width, R = cross->B * cross->shape.queries;
    int64_t Rv = cross->B * cross->shape.vision_tokens;
    struct arena_mark mark = arena_mark(arena);
    act *d_query, *v, *d_kv;
    dev_f32 *norm_v;
    BL_TRY(arena_act(arena, R * d, &d_query, err));
    BL_TRY(arena_act(arena, Rv * d, &v, err));
    BL_TRY(arena_act(arena, Rv * 2 * d, &d_kv, err));
    BL_TRY(arena_f32(arena, Rv * 2, &norm_v, err));
    struct ops_attention a = attention_of(cross, dropout);
    ops->attention_backward(ops, d_query, d_kv, ops_at(ops, d_kv, d), d_y, y, d, s->lse, s->query,
                            d, s->key_value, 2 * d, ops_at(ops, s->key_value, d), 2 * d, &a);
    linear_backward(p, &block->query, d_x, d_query, x, R);
    norm_forward(p, &block->norm, v, norm_v, cross->v, Rv);
    act *d_normed = v; /* ln2(v) is read for the last time by its weight's gradient */
    ops->linear_backward_weight(ops, p->view.grads + block->key_value.weight,
                                p->view.grads + block->key_value.bias, d_kv, v, Rv, 2 * d, d);
    ops->linear_backward_input(ops, d_normed, d_kv, block->key_value.matrix, Rv, false);
    norm_backward(p, &block->norm, d_v, d_normed, cross->v, norm_v, Rv, accumulate_v);
    arena_release(arena, mark);
    return 0;
}

static int end_backward(const struct cross *cross, struct arena *arena, act *d_v,
                        struct bl_error *err)
{
    return 0;
}

static int probs(const struct cross *cross, dev_f32 *ret, const struct cross_saved *s,
                 struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t d = cross->shape.width;
    struct ops_attention a = attention_of(cross, NULL);
    ops->attention_probs(ops, ret, s->query, d, s->key_value, 2 * d, &a);
    return 0;
}

const struct cross_form cross_plain = {"plain", open,           declare,  begin,        take,
                                       forward, begin_backward, backward, end_backward, probs};
