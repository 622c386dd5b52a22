/* worker/model/projector.c - both projectors:
 *
 *   normal   y = ln2(x + mlp(ln1(x)))
 *   moe      y = sum_e w_e expert_e(x),  expert = ln(mlp(ln(x))),  w = softmax(router(c)), one w
 * for all queries of an image; router = LayerNorm, Linear(d_v, d_v/2), GELU, Linear(d_v/2, E) mlp
 * Linear(d, 4d), GELU, Dropout, Linear(4d, d), Dropout
 *
 * The normal projector is one expert with a residual. */
#include "worker/model/projector.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"

/* Dropout sites: two in each expert, far from the Q-Former's. */
#define SITE_FIRST 0x10000u
enum { SITE_HIDDEN, SITE_OUT, SITES_PER_EXPERT };

struct expert {
    struct trained_norm before, after;
    struct trained_linear up, down; /* (4d,d), (d,4d) */
};

/* What backward needs: before's output, GELU's input and (dropped) output, after's input and its
 * output, which is the caller's. */
struct expert_saved {
    act *a, *pre, *hidden, *out, *y;
    dev_f32 *norm_before, *norm_after;
};

struct router {
    struct trained_norm norm;
    struct trained_linear up, down;
};

struct projector {
    struct params *params;
    struct projector_shape shape;
    int64_t count; /* experts; 1 when normal */
    struct expert *experts;
    struct router router;

    /* Of the last forward that saved. */
    struct expert_saved *saved;
    int64_t B;
    const act *x;
    const dev_f32 *w;
};

/* -- opening -- */

/* Tensor names of expert e: "mlp.0" or "experts.E.1". */
struct expert_names {
    char before[32], up[32], down[32], after[32];
};

static struct expert_names names_of(const struct projector *projector, int64_t e)
{
    struct expert_names names = {"ln1", "mlp.0", "mlp.3", "ln2"};
    if (projector->shape.kind == CAPTIONER_MOE) {
        snprintf(names.before, sizeof names.before, "experts.%d.0", (int)e);
        snprintf(names.up, sizeof names.up, "experts.%d.1", (int)e);
        snprintf(names.down, sizeof names.down, "experts.%d.4", (int)e);
        snprintf(names.after, sizeof names.after, "experts.%d.6", (int)e);
    }
    return names;
}

int projector_open(struct params *params, const struct projector_shape *shape,
                   struct projector **ret, struct bl_error *err)
{
    bl_auto(projector) struct projector *projector = calloc(1, sizeof *projector);
    if (!projector)
        return bl_fail(err, BL_ENOMEM, "no memory for a projector");
    projector->params = params;
    projector->shape = *shape;
    projector->count = shape->kind == CAPTIONER_MOE ? shape->experts : 1;
    projector->experts = calloc((size_t)projector->count, sizeof *projector->experts);
    projector->saved = calloc((size_t)projector->count, sizeof *projector->saved);
    if (!projector->experts || !projector->saved)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld experts", (long long)projector->count);
    int64_t d = shape->width;
    for (int64_t e = 0; e < projector->count; e++) {
        struct expert *expert = &projector->experts[e];
        struct expert_names names = names_of(projector, e);
        params_norm(params, CAPTIONER_PROJECTOR, names.after, &expert->after, d);
        params_linear(params, CAPTIONER_PROJECTOR, names.down, &expert->down, d, 4 * d);
        params_linear(params, CAPTIONER_PROJECTOR, names.up, &expert->up, 4 * d, d);
        params_norm(params, CAPTIONER_PROJECTOR, names.before, &expert->before, d);
    }
    *ret = bl_take(&projector);
    return 0;
}

void projector_declare_router(struct projector *projector)
{
    if (projector->shape.kind != CAPTIONER_MOE)
        return;
    struct params *p = projector->params;
    struct router *router = &projector->router;
    int64_t d_v = projector->shape.vision_width;
    params_linear(p, CAPTIONER_PROJECTOR, "router.3", &router->down, projector->shape.experts,
                  d_v / 2);
    params_linear(p, CAPTIONER_PROJECTOR, "router.1", &router->up, d_v / 2, d_v);
    params_norm(p, CAPTIONER_PROJECTOR, "router.0", &router->norm, d_v);
}

void projector_free(struct projector **projector)
{
    if (!*projector)
        return;
    free((*projector)->experts);
    free((*projector)->saved);
    free(*projector);
    *projector = NULL;
}

/* -- router -- */

/* The router's values up to its logits. */
struct routing {
    act *a, *pre, *hidden, *z;
    dev_f32 *norm;
};

static int route(const struct projector *projector, struct arena *arena, const act *c, int64_t B,
                 struct routing *ret, struct bl_error *err)
{
    const struct params *p = projector->params;
    const struct router *router = &projector->router;
    int64_t d_v = projector->shape.vision_width, half = router->up.N;
    struct routing r;
    BL_TRY(arena_act(arena, B * d_v, &r.a, err));
    BL_TRY(arena_act(arena, B * half, &r.pre, err));
    BL_TRY(arena_act(arena, B * half, &r.hidden, err));
    BL_TRY(arena_act(arena, B * projector->count, &r.z, err));
    BL_TRY(arena_f32(arena, B * 2, &r.norm, err));
    norm_forward(p, &router->norm, r.a, r.norm, c, B);
    linear_forward(p, &router->up, r.hidden, r.pre, r.a, B, OPS_GELU_ERF);
    linear_forward(p, &router->down, r.z, NULL, r.hidden, B, OPS_NONE);
    *ret = r;
    return 0;
}

int projector_route(const struct projector *projector, struct arena *arena, dev_f32 *w,
                    dev_f32 *lse, const act *c, int64_t B, struct bl_error *err)
{
    struct arena_mark mark = arena_mark(arena);
    struct routing r;
    BL_TRY(route(projector, arena, c, B, &r, err));
    struct ops *ops = projector->params->ops;
    ops->router_softmax(ops, w, lse, r.z, B, projector->count);
    arena_release(arena, mark);
    return 0;
}

int projector_route_backward(const struct projector *projector, struct arena *arena, const act *d_z,
                             const act *c, int64_t B, struct bl_error *err)
{
    const struct params *p = projector->params;
    const struct router *router = &projector->router;
    struct ops *ops = p->ops;
    int64_t d_v = projector->shape.vision_width, half = router->up.N;
    struct arena_mark mark = arena_mark(arena);
    struct routing r;
    act *d_hidden, *d_a, *d_c;
    BL_TRY(route(projector, arena, c, B, &r, err));
    BL_TRY(arena_act(arena, B * half, &d_hidden, err));
    BL_TRY(arena_act(arena, B * d_v, &d_a, err));
    BL_TRY(arena_act(arena, B * d_v, &d_c, err)); /* the vision tower is frozen: thrown away */
    linear_backward(p, &router->down, d_hidden, d_z, r.hidden, B);
    ops->activation_backward(ops, d_hidden, d_hidden, r.pre, OPS_GELU_ERF, B * half);
    linear_backward(p, &router->up, d_a, d_hidden, r.a, B);
    norm_backward(p, &router->norm, d_c, d_a, c, r.norm, B, false);
    arena_release(arena, mark);
    return 0;
}

/* -- experts -- */

static const struct ops_dropout *dropout_at(const struct projector *projector,
                                            const struct ops_dropout *dropout, int64_t e,
                                            uint32_t site, struct ops_dropout *copy)
{
    if (!dropout || projector->shape.dropout == 0)
        return NULL;
    *copy = *dropout;
    copy->p = projector->shape.dropout;
    copy->site = SITE_FIRST + (uint32_t)e * SITES_PER_EXPERT + site;
    return copy;
}

static int take_buffers(const struct projector *projector, struct arena *arena, act *y, int64_t B,
                        struct expert_saved *ret, struct bl_error *err)
{
    int64_t d = projector->shape.width, R = B * projector->shape.queries;
    struct expert_saved s = {.y = y};
    BL_TRY(arena_act(arena, R * d, &s.a, err));
    BL_TRY(arena_act(arena, R * 4 * d, &s.pre, err));
    BL_TRY(arena_act(arena, R * 4 * d, &s.hidden, err));
    BL_TRY(arena_act(arena, R * d, &s.out, err));
    BL_TRY(arena_f32(arena, R * 2, &s.norm_before, err));
    BL_TRY(arena_f32(arena, R * 2, &s.norm_after, err));
    *ret = s;
    return 0;
}

/* s->y (B*K, d) = after(mlp(before(x)) (+ x)) */
static void expert_forward(const struct projector *projector, int64_t e,
                           const struct expert_saved *s, const act *x, int64_t B,
                           const struct ops_dropout *dropout)
{
    const struct params *p = projector->params;
    struct ops *ops = p->ops;
    const struct expert *expert = &projector->experts[e];
    int64_t d = projector->shape.width, K = projector->shape.queries, R = B * K;
    struct ops_dropout copy;
    const struct ops_dropout *site;
    norm_forward(p, &expert->before, s->a, s->norm_before, x, R);
    linear_forward(p, &expert->up, s->hidden, s->pre, s->a, R, OPS_GELU_ERF);
    if ((site = dropout_at(projector, dropout, e, SITE_HIDDEN, &copy)))
        ops->dropout(ops, s->hidden, s->hidden, site, B, K, 4 * d);
    linear_forward(p, &expert->down, s->out, NULL, s->hidden, R, OPS_NONE);
    if ((site = dropout_at(projector, dropout, e, SITE_OUT, &copy)))
        ops->dropout(ops, s->out, s->out, site, B, K, d);
    if (projector->shape.kind == CAPTIONER_NORMAL)
        ops->add(ops, s->out, s->out, x, R * d);
    norm_forward(p, &expert->after, s->y, s->norm_after, s->out, R);
}

/* d_x (B*K, d) = or += from d_y */
static int expert_backward(const struct projector *projector, struct arena *arena, int64_t e,
                           act *d_x, const act *d_y, bool accumulate,
                           const struct ops_dropout *dropout, struct bl_error *err)
{
    const struct params *p = projector->params;
    struct ops *ops = p->ops;
    const struct expert *expert = &projector->experts[e];
    const struct expert_saved *s = &projector->saved[e];
    int64_t d = projector->shape.width, K = projector->shape.queries, B = projector->B, R = B * K;
    struct ops_dropout copy;
    const struct ops_dropout *site;
    struct arena_mark mark = arena_mark(arena);
    act *d_out, *d_hidden, *d_a;
    BL_TRY(arena_act(arena, R * d, &d_out, err));
    BL_TRY(arena_act(arena, R * 4 * d, &d_hidden, err));
    BL_TRY(arena_act(arena, R * d, &d_a, err));
    norm_backward(p, &expert->after, d_out, d_y, s->out, s->norm_after, R, false);
    if (projector->shape.kind == CAPTIONER_NORMAL) {
        ops->copy(ops, d_x, d_out, (size_t)(R * d) * ops->act_bytes);
        accumulate = true;
    }
    if ((site = dropout_at(projector, dropout, e, SITE_OUT, &copy)))
        ops->dropout(ops, d_out, d_out, site, B, K, d);
    linear_backward(p, &expert->down, d_hidden, d_out, s->hidden, R);
    if ((site = dropout_at(projector, dropout, e, SITE_HIDDEN, &copy)))
        ops->dropout(ops, d_hidden, d_hidden, site, B, K, 4 * d);
    ops->activation_backward(ops, d_hidden, d_hidden, s->pre, OPS_GELU_ERF, R * 4 * d);
    linear_backward(p, &expert->up, d_a, d_hidden, s->a, R);
    norm_backward(p, &expert->before, d_x, d_a, projector->x, s->norm_before, R, accumulate);
    arena_release(arena, mark);
    return 0;
}

/* -- the whole -- */

int projector_forward(struct projector *projector, struct arena *arena, act *y, const act *x,
                      const dev_f32 *w, int64_t B, const struct ops_dropout *dropout, bool save,
                      struct bl_error *err)
{
    struct ops *ops = projector->params->ops;
    int64_t d = projector->shape.width, K = projector->shape.queries, E = projector->count;
    const bool moe = projector->shape.kind == CAPTIONER_MOE;
    if (save) {
        projector->B = B;
        projector->x = x;
        projector->w = w;
    }
    struct arena_mark begin = arena_mark(arena);
    act *outputs = y; /* (E, B*K, d) */
    if (moe)
        BL_TRY(arena_act(arena, E * B * K * d, &outputs, err));
    struct arena_mark mark = arena_mark(arena);
    for (int64_t e = 0; e < E; e++) {
        struct expert_saved s;
        BL_TRY(take_buffers(projector, arena, ops_at(ops, outputs, e * B * K * d), B, &s, err));
        expert_forward(projector, e, &s, x, B, dropout);
        if (save)
            projector->saved[e] = s;
        else
            arena_release(arena, mark);
    }
    if (moe)
        ops->mix_forward(ops, y, outputs, w, B, E, K, d);
    if (!save)
        arena_release(arena, begin);
    return 0;
}

int projector_backward(struct projector *projector, struct arena *arena, act *d_x, dev_f32 *d_w,
                       const act *d_y, const struct ops_dropout *dropout, struct bl_error *err)
{
    struct ops *ops = projector->params->ops;
    int64_t d = projector->shape.width, K = projector->shape.queries, B = projector->B;
    if (projector->shape.kind == CAPTIONER_NORMAL)
        return expert_backward(projector, arena, 0, d_x, d_y, false, dropout, err);
    struct arena_mark mark = arena_mark(arena);
    act *d_expert;
    BL_TRY(arena_act(arena, B * K * d, &d_expert, err));
    for (int64_t e = 0; e < projector->count; e++) {
        ops->mix_backward(ops, d_expert, d_w, d_y, projector->saved[e].y, projector->w, e, B,
                          projector->count, K, d);
        BL_TRY(expert_backward(projector, arena, e, d_x, d_expert, e > 0, dropout, err));
    }
    arena_release(arena, mark);
    return 0;
}
