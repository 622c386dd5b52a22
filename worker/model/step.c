/* worker/model/step.c - one training step's micro-batches, their sums, and the router's gradient at
 * the end. */
#include <math.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "worker/model/captioner_private.h"

/* -- what the step keeps -- */

/* Room for `capacity` elements behind *p, which keeps the `used` it has. */
static int grow(struct ops *ops, dev_void **p, size_t element, int64_t used, int64_t capacity,
                struct bl_error *err)
{
    dev_void *bigger;
    BL_TRY(ops->alloc(ops, (size_t)capacity * element, &bigger, err));
    if (*p)
        ops->copy(ops, bigger, *p, (size_t)used * element);
    /* What is queued may still read the old one. */
    int rc = ops->sync(ops, err);
    if (rc < 0) {
        ops->release(ops, bigger);
        return rc;
    }
    ops->release(ops, *p);
    *p = bigger;
    return 0;
}

static int reserve_tokens(struct captioner *c, int64_t more, struct bl_error *err)
{
    struct step_store *step = &c->step;
    if (step->tokens + more < step->tokens_capacity) /* at 0 too: no pointer stays NULL */
        return 0;
    int64_t capacity = bl_max(64, bl_max(step->tokens + more + 1, 2 * step->tokens_capacity));
    dev_void *nll = step->nll;
    BL_TRY(grow(c->ops, &nll, sizeof(float), step->tokens, capacity, err));
    step->nll = nll;
    step->tokens_capacity = capacity;
    return 0;
}

static int reserve_images(struct captioner *c, int64_t more, struct bl_error *err)
{
    struct step_store *step = &c->step;
    if (!captioner_is_moe(c) || step->images + more < step->images_capacity)
        return 0;
    int64_t capacity = bl_max(64, bl_max(step->images + more + 1, 2 * step->images_capacity)),
            E = c->options.experts;
    dev_void *arrays[] = {step->routing, step->w, step->d_w, step->lse};
    size_t bytes[] = {(size_t)c->vision_config.hidden * c->ops->act_bytes,
                      (size_t)E * sizeof(float), (size_t)E * sizeof(float), sizeof(float)};
    for (int i = 0; i < 4; i++) {
        int rc = grow(c->ops, &arrays[i], bytes[i], step->images, capacity, err);
        step->routing = arrays[0];
        step->w = arrays[1];
        step->d_w = arrays[2];
        step->lse = arrays[3];
        if (rc < 0)
            return rc;
    }
    step->images_capacity = capacity;
    return 0;
}

/* What is known of the micro-batch's texts on the host. */
static int note_texts(struct captioner *c, const struct micro_batch *mb,
                      const struct layout *layout, struct bl_error *err)
{
    struct step_store *step = &c->step;
    if (step->images + mb->B > step->texts_capacity) {
        int64_t capacity = bl_max(64, bl_max(step->images + mb->B, 2 * step->texts_capacity));
        struct step_text *texts = realloc(step->texts, (size_t)capacity * sizeof *texts);
        if (!texts)
            return bl_fail(err, BL_ENOMEM, "no memory for %lld texts", (long long)capacity);
        step->texts = texts;
        step->texts_capacity = capacity;
    }
    for (int64_t b = 0; b < mb->B; b++) {
        int32_t source = mb->sources ? mb->sources[b] : 0;
        BL_ASSERT(source >= 0 && source < CAPTIONER_SOURCES_MAX);
        step->texts[step->images + b] = (struct step_text){layout->label_counts[b], source};
    }
    return 0;
}

static int begin_grain(struct captioner *c, struct bl_error *err)
{
    struct step_store *step = &c->step;
    if (step->grains == step->grains_capacity) {
        int64_t capacity = bl_max(16, 2 * step->grains_capacity);
        int64_t *grain = realloc(step->grain, (size_t)capacity * sizeof *grain);
        if (!grain)
            return bl_fail(err, BL_ENOMEM, "no memory for %lld micro-batches", (long long)capacity);
        step->grain = grain;
        step->grains_capacity = capacity;
    }
    step->grain[step->grains++] = step->images;
    return 0;
}

void captioner_step_begin(struct captioner *c)
{
    c->step.tokens = c->step.images = c->step.grains = 0;
}

/* -- forward and backward -- */

static enum saving saving(const struct captioner *c)
{
    return c->options.recompute ? SAVE_INPUTS : SAVE_ALL;
}

/* Which gradients are final so far. */
struct progress {
    const struct captioner_pass *pass;
    int64_t done;
};

static void progress_to(void *ctx, int64_t end)
{
    struct progress *progress = ctx;
    if (end > progress->done && progress->pass->grads_ready)
        progress->pass->grads_ready(progress->pass->ctx, progress->done, end - progress->done);
    progress->done = end;
}

/* The routing vectors, weights and their gradients of this micro-batch, in the step's store; NULL
 * when normal. */
struct routed {
    act *vectors;
    dev_f32 *w, *d_w, *lse;
};

static struct routed routed_at(const struct captioner *c)
{
    const struct step_store *step = &c->step;
    if (!captioner_is_moe(c))
        return (struct routed){0};
    int64_t at = step->images, E = c->options.experts;
    return (struct routed){ops_at(c->ops, step->routing, at * c->vision_config.hidden),
                           step->w + at * E, step->d_w + at * E, step->lse + at};
}

/* nll (labels) of the step's store; d_y (S*K, d): gradient of its sum at the projected queries y.
 */
static int language_pass(struct captioner *c, const struct layout *layout, dev_f32 *nll, act *d_y,
                         const act *y, struct bl_error *err)
{
    struct ops *ops = c->ops;
    struct arena *arena = &c->arena;
    int64_t D = c->llm_config.hidden, R = layout->rows.R;
    struct arena_mark mark = arena_mark(arena);
    act *x, *h, *d_h, *d_x;
    BL_TRY(arena_act(arena, R * D, &x, err));
    BL_TRY(arena_act(arena, layout->labels * D, &h, err));
    BL_TRY(arena_act(arena, layout->labels * D, &d_h, err));
    BL_TRY(captioner_inputs(c, x, layout, y, err));
    BL_TRY(llm_forward(c->llm, arena, h, x, &layout->rows, NULL, saving(c), err));
    BL_TRY(llm_loss(c->llm, arena, nll, NULL, d_h, h, layout->label_ids, layout->labels, err));
    BL_TRY(arena_act(arena, R * D, &d_x, err));
    BL_TRY(llm_backward(c->llm, arena, d_x, d_h, &layout->rows, err));
    ops->gather_rows(ops, d_y, d_x, layout->query_rows, layout->S * c->options.queries, D);
    arena_release(arena, mark);
    return 0;
}

int captioner_forward_backward(struct captioner *c, const struct micro_batch *mb,
                               const struct captioner_pass *pass, struct bl_error *err)
{
    struct arena *arena = &c->arena;
    struct step_store *step = &c->step;
    int64_t D = c->llm_config.hidden, rows = mb->B * c->options.queries;
    BL_TRY(arena_reset(arena, err));
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    BL_TRY(captioner_layout(c, mb, false, &layout, err));
    BL_TRY(reserve_tokens(c, layout.labels, err));
    BL_TRY(reserve_images(c, mb->B, err));
    BL_TRY(begin_grain(c, err));
    BL_TRY(note_texts(c, mb, &layout, err));

    struct ops_dropout draw = {
        .seed = pass->seed, .step = pass->step, .positions = layout.positions};
    const struct ops_dropout *dropout = pass->dropout ? &draw : NULL;
    struct routed routed = routed_at(c);
    struct images images;
    act *queries, *y, *d_y, *d_queries;
    BL_TRY(captioner_step_images(c, mb, routed.vectors, &images, err));
    BL_TRY(arena_act(arena, rows * D, &queries, err));
    BL_TRY(arena_act(arena, rows * D, &y, err));
    BL_TRY(arena_act(arena, rows * D, &d_y, err));
    BL_TRY(arena_act(arena, rows * D, &d_queries, err));

    BL_TRY(qformer_forward(c->qformer, arena, queries, images.features, mb->B, dropout, saving(c),
                           err));
    if (captioner_is_moe(c))
        BL_TRY(
            projector_route(c->projector, arena, routed.w, routed.lse, routed.vectors, mb->B, err));
    BL_TRY(projector_forward(c->projector, arena, y, queries, routed.w, mb->B, dropout, true, err));
    BL_TRY(language_pass(c, &layout, step->nll + step->tokens, d_y, y, err));

    struct progress progress = {.pass = pass};
    BL_TRY(projector_backward(c->projector, arena, d_queries, routed.d_w, d_y, dropout, err));
    progress_to(&progress, c->projector_end);
    BL_TRY(qformer_backward(c->qformer, arena, d_queries, dropout, progress_to, &progress, err));
    BL_ASSERT_CMP(progress.done, ==, c->params.view.router_first);
    step->tokens += layout.labels;
    step->images += mb->B;
    return 0;
}

/* -- sums -- */

static int copy_out(struct captioner *c, float **ret, const dev_f32 *device, int64_t count,
                    struct bl_error *err)
{
    bl_autofree float *host = calloc((size_t)count + 1, sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld numbers", (long long)count);
    if (count > 0)
        c->ops->copy_out(c->ops, host, device, (size_t)count * sizeof *host);
    BL_TRY(c->ops->sync(c->ops, err));
    *ret = bl_take(&host);
    return 0;
}

static int sum_routing(struct captioner *c, struct captioner_sums *sums, struct bl_error *err)
{
    int64_t images = c->step.images, E = c->options.experts;
    bl_autofree float *w = NULL;
    bl_autofree float *lse = NULL;
    BL_TRY(copy_out(c, &w, c->step.w, images * E, err));
    BL_TRY(copy_out(c, &lse, c->step.lse, images, err));
    for (int64_t b = 0; b < images; b++) {
        double entropy = 0;
        for (int64_t e = 0; e < E; e++) {
            double share = (double)w[b * E + e];
            sums->share[e] += llrint(share * OPS_FIXED_SCALE);
            entropy -= share > 0 ? share * log(share) : 0;
        }
        sums->entropy += captioner_exact(entropy);
        sums->lse2 += captioner_exact((double)lse[b] * (double)lse[b]);
    }
    return 0;
}

int captioner_step_sums(struct captioner *c, struct captioner_sums *ret, struct bl_error *err)
{
    struct captioner_sums sums = {.tokens = c->step.tokens, .images = c->step.images};
    bl_autofree float *nll = NULL;
    BL_TRY(copy_out(c, &nll, c->step.nll, sums.tokens, err));
    int64_t at = 0;
    for (int64_t b = 0; b < sums.images; b++) {
        const struct step_text *text = &c->step.texts[b];
        struct captioner_source_sums *source = &sums.source[text->source];
        for (int64_t i = 0; i < text->labels; i++)
            source->nll += captioner_exact((double)nll[at++]);
        source->tokens += text->labels;
        source->images++;
    }
    BL_ASSERT_CMP(at, ==, sums.tokens);
    for (int s = 0; s < CAPTIONER_SOURCES_MAX; s++)
        sums.nll += sums.source[s].nll;
    if (captioner_is_moe(c))
        BL_TRY(sum_routing(c, &sums, err));
    *ret = sums;
    return 0;
}

/* -- router -- */

int captioner_router_backward(struct captioner *c, const struct captioner_router *router,
                              int64_t grain, struct bl_error *err)
{
    const struct step_store *step = &c->step;
    if (!captioner_is_moe(c))
        return 0;
    BL_ASSERT(grain >= -1 && grain < step->grains);
    int64_t first = grain < 0 ? 0 : step->grain[grain];
    int64_t end = grain < 0 || grain + 1 == step->grains ? step->images : step->grain[grain + 1];
    int64_t B = end - first, E = c->options.experts;
    if (B == 0)
        return 0;
    BL_TRY(arena_reset(&c->arena, err));
    float share[CAPTIONER_EXPERTS_MAX];
    for (int64_t e = 0; e < E; e++)
        share[e] = (float)router->share[e];
    dev_f32 *device_share;
    act *d_z;
    BL_TRY(arena_f32_from(&c->arena, share, E, &device_share, err));
    BL_TRY(arena_act(&c->arena, B * E, &d_z, err));
    c->ops->router_backward(c->ops, d_z, step->d_w + first * E, step->w + first * E,
                            step->lse + first, device_share, router->tokens, router->images,
                            router->alpha, router->beta, B, E);
    return projector_route_backward(c->projector, &c->arena, d_z,
                                    ops_at(c->ops, step->routing, first * c->vision_config.hidden),
                                    B, err);
}
