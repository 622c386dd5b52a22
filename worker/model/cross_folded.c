/* worker/model/cross_folded.c - cross-attention without keys and values (cross.h).
 *
 * Backward, from d_o:
 *   d_r = <d_o_h, b_v,h> + <d_x, g m + b>,  d_x = d_o_h W_v,h,  d_c = g d_x
 *   d_P = d_c v~^T + d_r, through dropout and softmax to d_s;  d_u = d_s v~;  d_v^ += P^T d_c + d_s^T u
 *   d(q_h W_k,h) = g d_u;  d_q_h = g d_u W_k,h^T
 *   d_g += sum (c + r m) d_x + sum (q_h W_k,h) d_u;  d_b += sum r d_x
 * The result does not depend on m, so m has no gradient.
 * Kept: the heads' queries, softmax, c and r. Made again: u, x = g (c + r m) + r b, dropout. */
#include "worker/model/cross.h"

#include <stdlib.h>

#include "common/cleanup.h"

static int64_t head_dim(const struct cross *cross)
{
    return cross->shape.width / cross->shape.heads;
}

static int64_t score_ld(const struct cross *cross)
{
    return ops_score_ld(cross->params->ops, cross->shape.vision_tokens);
}

static int open(struct cross *cross, struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    return ops->operand_create(ops, &cross->normed, cross->shape.vision_tokens, cross->shape.width,
                               err);
}

static int declare(const struct cross *cross, struct params *params, struct cross_block *block,
                   int64_t weight, int64_t bias, struct bl_error *err)
{
    int64_t d = cross->shape.width, heads = cross->shape.heads, dh = head_dim(cross);
    block->key_heads = calloc((size_t)heads, sizeof *block->key_heads);
    block->value_heads = calloc((size_t)heads, sizeof *block->value_heads);
    if (!block->key_heads || !block->value_heads)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld heads", (long long)heads);
    for (int64_t h = 0; h < heads; h++) {
        params_linear_at(params, &block->key_heads[h], weight + (d + h * dh) * d, bias + d + h * dh,
                         dh, d);
        params_linear_at(params, &block->value_heads[h], weight + (2 * d + h * dh) * d,
                         block->value_bias + h * dh, dh, d);
    }
    return 0;
}

/* -- orders of rows -- */

enum order { MERGED, IMAGE, HEAD };

/* Where (b, h, k) is in an order. */
static int64_t row_of(const struct cross *cross, enum order order, int64_t b, int64_t h, int64_t k)
{
    int64_t H = cross->shape.heads, K = cross->shape.queries;
    switch (order) {
    case MERGED:
        return (b * K + k) * H + h;
    case IMAGE:
        return (b * H + h) * K + k;
    case HEAD:
        break;
    }
    return (h * cross->B + b) * K + k;
}

/* index (B*K*heads): where the row that comes i-th in `to` is in `from`. */
static void fill_index(const struct cross *cross, int32_t *index, enum order to, enum order from)
{
    int64_t H = cross->shape.heads, K = cross->shape.queries;
    for (int64_t b = 0; b < cross->B; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t k = 0; k < K; k++)
                index[row_of(cross, to, b, h, k)] = (int32_t)row_of(cross, from, b, h, k);
}

static int make_indices(struct cross *cross, struct arena *arena, struct bl_error *err)
{
    const struct {
        enum order to, from;
        const dev_i32 **ret;
    } wanted[] = {
        {HEAD, MERGED, &cross->head_from_merged},   {MERGED, HEAD, &cross->merged_from_head},
        {HEAD, IMAGE, &cross->head_from_image},     {IMAGE, HEAD, &cross->image_from_head},
        {IMAGE, MERGED, &cross->image_from_merged}, {MERGED, IMAGE, &cross->merged_from_image},
    };
    enum { COUNT = sizeof wanted / sizeof *wanted };
    struct arena_array arrays[COUNT];
    int64_t rows = cross->B * cross->shape.heads * cross->shape.queries;
    bl_autofree int32_t *host = malloc((size_t)(COUNT * rows + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld rows of attention", (long long)rows);
    for (int i = 0; i < COUNT; i++) {
        fill_index(cross, host + i * rows, wanted[i].to, wanted[i].from);
        arrays[i] = (struct arena_array){host + i * rows, rows, wanted[i].ret};
    }
    return arena_i32s_from(arena, arrays, COUNT, err);
}

/* -- forward -- */

/* normed (B*N,d) -= the mean of each image's rows, which is cross->mean. */
static int take_mean(struct cross *cross, struct arena *arena, act *normed, struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t d = cross->shape.width, N = cross->shape.vision_tokens, B = cross->B;
    struct ops_affine minus_mean = {.bias = cross->mean, .period = N, .G = B};
    struct arena_mark mark = arena_mark(arena);
    act *mean;
    dev_f32 *minus_one;
    bl_autofree float *host = malloc((size_t)(B * N + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld vision tokens", (long long)(B * N));
    for (int64_t i = 0; i < B * N; i++)
        host[i] = -1;
    BL_TRY(arena_act(arena, B * d, &mean, err));
    BL_TRY(arena_f32_from(arena, host, B * N, &minus_one, err));
    ops->mean_rows(ops, mean, normed, B, N, 0, d);
    ops->act_to_f32(ops, cross->mean, mean, B * d);
    minus_mean.shift = minus_one;
    if (B > 0)
        ops->affine_forward(ops, normed, normed, &minus_mean, B * N, d);
    arena_release(arena, mark);
    return 0;
}

static int begin(struct cross *cross, struct arena *arena, struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t d = cross->shape.width, Rv = cross->B * cross->shape.vision_tokens;
    act *normed;
    BL_TRY(make_indices(cross, arena, err));
    BL_TRY(arena_act(arena, Rv * d, &normed, err));
    BL_TRY(arena_f32(arena, Rv * 2, &cross->norm, err));
    BL_TRY(arena_f32(arena, cross->B * d, &cross->mean, err));
    ops->layernorm_forward(ops, normed, cross->norm, cross->v, NULL, NULL, Rv, d, TRAINED_NORM_EPS);
    BL_TRY(take_mean(cross, arena, normed, err));
    ops->operand_set(ops, cross->normed, normed, cross->B);
    return 0;
}

static int take(const struct cross *cross, struct arena *arena, struct cross_saved *ret,
                struct bl_error *err)
{
    int64_t d = cross->shape.width, rows = cross->B * cross->shape.heads * cross->shape.queries;
    struct cross_saved s = {0};
    BL_TRY(arena_act(arena, rows * head_dim(cross), &s.query, err));
    BL_TRY(arena_act(arena, rows * score_ld(cross), &s.p, err));
    BL_TRY(arena_act(arena, rows * d, &s.c, err));
    BL_TRY(arena_f32(arena, rows, &s.sums, err));
    *ret = s;
    return 0;
}

/* y (heads,R,d) = q_h W_k,h of q (heads,R,d_h), R = B*K; or d_o_h W_v,h. */
static void multiply_heads(const struct cross *cross, const struct trained_linear *heads, act *y,
                           const act *q)
{
    struct ops *ops = cross->params->ops;
    int64_t R = cross->B * cross->shape.queries;
    for (int64_t h = 0; h < cross->shape.heads; h++)
        ops->linear_backward_input(ops, ops_at(ops, y, h * R * cross->shape.width),
                                   ops_at(ops, q, h * R * head_dim(cross)), heads[h].matrix, R,
                                   false);
}

/* y (heads,R,d_h) = x_h W_h^T of x (heads,R,d) */
static void multiply_heads_transposed(const struct cross *cross, const struct trained_linear *heads,
                                      act *y, const act *x)
{
    struct ops *ops = cross->params->ops;
    int64_t R = cross->B * cross->shape.queries;
    for (int64_t h = 0; h < cross->shape.heads; h++)
        ops->linear_forward(ops, ops_at(ops, y, h * R * head_dim(cross)), NULL,
                            ops_at(ops, x, h * R * cross->shape.width), heads[h].matrix, NULL, R,
                            OPS_NONE);
}

/* Gradient of W_h += y_h^T x_h, y (heads,R,d_h), x (heads,R,d) */
static void add_heads_gradient(const struct cross *cross, const struct trained_linear *heads,
                               const act *y, const act *x)
{
    const struct params *p = cross->params;
    int64_t R = cross->B * cross->shape.queries, d = cross->shape.width, dh = head_dim(cross);
    for (int64_t h = 0; h < cross->shape.heads; h++)
        p->ops->linear_backward_weight(p->ops, p->view.grads + heads[h].weight, NULL,
                                       ops_at(p->ops, y, h * R * dh), ops_at(p->ops, x, h * R * d),
                                       R, dh, d);
}

/* raw = q_h W_k,h and u = g raw, both (B,heads,K,d); spare of the same size. */
static void make_u(const struct cross *cross, const struct cross_block *block, act *raw, act *u,
                   act *spare, const act *query)
{
    const struct params *p = cross->params;
    int64_t d = cross->shape.width, rows = cross->B * cross->shape.heads * cross->shape.queries;
    const struct ops_affine scale = {.weight = p->view.values + block->norm.weight};
    multiply_heads(cross, block->key_heads, spare, query);
    p->ops->gather_rows(p->ops, raw, spare, cross->image_from_head, rows, d);
    p->ops->affine_forward(p->ops, u, raw, &scale, rows, d);
}

/* x = g (c + r m) + r b */
static struct ops_affine norm_of(const struct cross *cross, const struct cross_block *block,
                                 const struct cross_saved *s)
{
    const dev_f32 *values = cross->params->view.values;
    return (struct ops_affine){.weight = values + block->norm.weight,
                               .shift = s->sums,
                               .bias = values + block->norm.bias,
                               .period = 1,
                               .G = 1,
                               .center = cross->mean,
                               .center_rows = cross->shape.heads * cross->shape.queries};
}

/* o_h += r_h b_v,h, rows in the order of images */
static struct ops_affine value_bias_of(const struct cross *cross, const struct cross_block *block,
                                       const struct cross_saved *s)
{
    return (struct ops_affine){.shift = s->sums,
                               .bias = cross->params->view.values + block->value_bias,
                               .period = cross->shape.queries,
                               .G = cross->shape.heads};
}

static float scale_of(const struct cross *cross)
{
    return 1 / sqrtf((float)head_dim(cross));
}

static int forward(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                   act *y, const act *x, const struct cross_saved *s,
                   const struct ops_dropout *dropout, struct bl_error *err)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    int64_t d = cross->shape.width, dh = head_dim(cross), N = cross->shape.vision_tokens;
    int64_t R = cross->B * cross->shape.queries, M = cross->shape.heads * cross->shape.queries;
    int64_t rows = cross->B * M;
    struct arena_mark mark = arena_mark(arena);
    act *a, *b, *heads, *dropped;
    BL_TRY(arena_act(arena, rows * d, &a, err));
    BL_TRY(arena_act(arena, rows * d, &b, err));
    BL_TRY(arena_act(arena, rows * dh, &heads, err));
    BL_TRY(arena_act(arena, rows * score_ld(cross), &dropped, err));

    linear_forward(p, &block->query, y, NULL, x, R, OPS_NONE); /* y is free until the end */
    ops->gather_rows(ops, s->query, y, cross->head_from_merged, rows, dh);
    make_u(cross, block, a, a, b, s->query);
    ops->product_transposed(ops, s->p, a, cross->normed, M);
    ops->softmax_forward(ops, s->p, dropped, s->sums, s->p, scale_of(cross), dropout, cross->B, M,
                         N, score_ld(cross));
    ops->product(ops, s->c, dropped, cross->normed, M);

    const struct ops_affine norm = norm_of(cross, block, s), bias = value_bias_of(cross, block, s);
    ops->affine_forward(ops, a, s->c, &norm, rows, d);
    ops->gather_rows(ops, b, a, cross->head_from_image, rows, d);
    act *o = a; /* of the width of a head */
    multiply_heads_transposed(cross, block->value_heads, o, b);
    ops->gather_rows(ops, heads, o, cross->image_from_head, rows, dh);
    ops->affine_forward(ops, heads, heads, &bias, rows, dh);
    ops->gather_rows(ops, y, heads, cross->merged_from_image, rows, dh);
    arena_release(arena, mark);
    return 0;
}

/* -- backward -- */

static int begin_backward(struct cross *cross, struct arena *arena, struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t count = cross->B * cross->shape.vision_tokens * cross->shape.width;
    BL_TRY(arena_f32(arena, count, &cross->d_normed, err));
    ops->zero(ops, cross->d_normed, (size_t)count * sizeof(float));
    return 0;
}

struct backward_buffers {
    act *a, *b, *raw, *u; /* (rows, d) */
    act *heads, *merged;  /* (rows, d_h) */
    act *d_p, *dropped;   /* (rows, score_ld) */
    dev_f32 *d_sums;      /* (rows) */
};

static int take_backward(const struct cross *cross, struct arena *arena,
                         struct backward_buffers *ret, struct bl_error *err)
{
    int64_t rows = cross->B * cross->shape.heads * cross->shape.queries, d = cross->shape.width;
    int64_t dh = head_dim(cross), ld = score_ld(cross);
    act **const wide[] = {&ret->a, &ret->b, &ret->raw, &ret->u};
    for (int i = 0; i < 4; i++)
        BL_TRY(arena_act(arena, rows * d, wide[i], err));
    BL_TRY(arena_act(arena, rows * dh, &ret->heads, err));
    BL_TRY(arena_act(arena, rows * dh, &ret->merged, err));
    BL_TRY(arena_act(arena, rows * ld, &ret->d_p, err));
    BL_TRY(arena_act(arena, rows * ld, &ret->dropped, err));
    return arena_f32(arena, rows, &ret->d_sums, err);
}

/* o_h = W_v,h (g (c_h + r_h m) + r_h b) + r_h b_v,h: d_c into t->a and d_r into t->d_sums from d_y. */
static void backward_values(const struct cross *cross, const struct cross_block *block,
                            struct backward_buffers *t, const act *d_y, const struct cross_saved *s)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    dev_f32 *grads = p->view.grads;
    int64_t rows = cross->B * cross->shape.heads * cross->shape.queries, d = cross->shape.width;
    int64_t dh = head_dim(cross);
    const struct ops_affine norm = norm_of(cross, block, s), bias = value_bias_of(cross, block, s);
    ops->gather_rows(ops, t->merged, d_y, cross->image_from_merged, rows, dh);
    ops->affine_backward(ops, NULL, t->d_sums, NULL, grads + block->value_bias, t->merged, NULL,
                         &bias, rows, dh, false);
    ops->gather_rows(ops, t->heads, t->merged, cross->head_from_image, rows, dh);
    ops->affine_forward(ops, t->a, s->c, &norm, rows, d);
    ops->gather_rows(ops, t->b, t->a, cross->head_from_image, rows, d);
    add_heads_gradient(cross, block->value_heads, t->heads, t->b);
    multiply_heads(cross, block->value_heads, t->b, t->heads);
    ops->gather_rows(ops, t->a, t->b, cross->image_from_head, rows, d);
    ops->affine_backward(ops, t->a, t->d_sums, grads + block->norm.weight, grads + block->norm.bias,
                         t->a, s->c, &norm, rows, d, true);
}

/* s = u v~^T, u_h = g (q_h W_k,h): the heads' d_q into t->heads from d_s in t->d_p. */
static void backward_keys(const struct cross *cross, const struct cross_block *block,
                          struct backward_buffers *t, const struct cross_saved *s)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    int64_t M = cross->shape.heads * cross->shape.queries, rows = cross->B * M;
    int64_t d = cross->shape.width;
    const struct ops_affine scale = {.weight = p->view.values + block->norm.weight};
    make_u(cross, block, t->raw, t->u, t->b, s->query);
    ops->product_backward(ops, cross->d_normed, t->d_p, t->u, cross->normed, M);
    ops->product(ops, t->a, t->d_p, cross->normed, M);
    ops->affine_backward(ops, t->a, NULL, p->view.grads + block->norm.weight, NULL, t->a, t->raw,
                         &scale, rows, d, false);
    ops->gather_rows(ops, t->b, t->a, cross->head_from_image, rows, d);
    add_heads_gradient(cross, block->key_heads, s->query, t->b);
    multiply_heads_transposed(cross, block->key_heads, t->heads, t->b);
}

static int backward(const struct cross *cross, struct arena *arena, const struct cross_block *block,
                    act *d_x, act *d_v, bool accumulate_v, const act *d_y, const act *y,
                    const act *x, const struct cross_saved *s, const struct ops_dropout *dropout,
                    struct bl_error *err)
{
    const struct params *p = cross->params;
    struct ops *ops = p->ops;
    int64_t N = cross->shape.vision_tokens, M = cross->shape.heads * cross->shape.queries;
    int64_t rows = cross->B * M, R = cross->B * cross->shape.queries;
    struct arena_mark mark = arena_mark(arena);
    struct backward_buffers t;
    BL_TRY(take_backward(cross, arena, &t, err));
    backward_values(cross, block, &t, d_y, s);
    ops->product_transposed(ops, t.d_p, t.a, cross->normed, M);
    ops->softmax_drop(ops, t.dropped, s->p, dropout, cross->B, M, N, score_ld(cross));
    ops->product_backward(ops, cross->d_normed, t.dropped, t.a, cross->normed, M);
    ops->softmax_backward(ops, t.d_p, t.d_p, t.d_sums, s->p, scale_of(cross), dropout, cross->B, M,
                          N, score_ld(cross));
    backward_keys(cross, block, &t, s);
    ops->gather_rows(ops, t.merged, t.heads, cross->merged_from_head, rows, head_dim(cross));
    linear_backward(p, &block->query, d_x, t.merged, x, R);
    arena_release(arena, mark);
    return 0;
}

static int end_backward(const struct cross *cross, struct arena *arena, act *d_v,
                        struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t d = cross->shape.width, Rv = cross->B * cross->shape.vision_tokens;
    struct arena_mark mark = arena_mark(arena);
    act *d_normed;
    BL_TRY(arena_act(arena, Rv * d, &d_normed, err));
    ops->act_from_f32(ops, d_normed, cross->d_normed, Rv * d);
    ops->layernorm_backward(ops, d_v, NULL, NULL, d_normed, cross->v, cross->norm, NULL, Rv, d,
                            false);
    arena_release(arena, mark);
    return 0;
}

/* -- pictures: the mean over heads on the host -- */

static int probs(const struct cross *cross, dev_f32 *ret, const struct cross_saved *s,
                 struct bl_error *err)
{
    struct ops *ops = cross->params->ops;
    int64_t H = cross->shape.heads, K = cross->shape.queries, N = cross->shape.vision_tokens;
    int64_t ld = score_ld(cross), count = cross->B * H * K * ld;
    dev_void *wide;
    bl_autofree float *host = malloc((size_t)(count + 1) * sizeof *host);
    bl_autofree float *mean = calloc((size_t)(cross->B * K * N + 1), sizeof *mean);
    if (!host || !mean)
        return bl_fail(err, BL_ENOMEM, "no memory for attention maps of %lld images",
                       (long long)cross->B);
    BL_TRY(ops->alloc(ops, (size_t)count * sizeof *host, &wide, err));
    ops->act_to_f32(ops, wide, s->p, count);
    ops->copy_out(ops, host, wide, (size_t)count * sizeof *host);
    ops->release(ops, wide);
    for (int64_t b = 0; b < cross->B; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t i = 0; i < K * N; i++)
                mean[b * K * N + i] += host[((b * H + h) * K + i / N) * ld + i % N] / (float)H;
    ops->copy_in(ops, ret, mean, (size_t)(cross->B * K * N) * sizeof *mean);
    return 0;
}

const struct cross_form cross_folded = {"folded", open,           declare,  begin,        take,
                                        forward,  begin_backward, backward, end_backward, probs};
