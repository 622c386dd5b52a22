/* worker/model/captioner.c - opening, parameters, and how a micro-batch becomes rows of the LLM. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "worker/model/captioner_private.h"

/* -- opening -- */

static int fail_option(struct bl_error *err, const char *key, const char *text)
{
    bl_fail(err, BL_ECONFIG, "%s", text);
    return bl_error_key(err, "%s", key);
}

static int check_options(const struct captioner_options *o, const struct hf_llm *llm,
                         struct bl_error *err)
{
    if (o->bos_id >= llm->vocabulary)
        return fail_option(err, "llm.bos",
                           "the tokenizer's BOS is outside the language model's vocabulary");
    if (o->queries < 1)
        return fail_option(err, "qformer.queries", "expected at least 1");
    if (o->layers < 1)
        return fail_option(err, "qformer.layers", "expected at least 1");
    if (o->heads < 1)
        return fail_option(err, "qformer.heads", "expected at least 1");
    if (o->width % o->heads != 0)
        return fail_option(err, "qformer.heads", "expected a divisor of the Q-Former's width");
    if (!(o->dropout >= 0 && o->dropout < 1))
        return fail_option(err, "qformer.dropout", "expected a share from 0 to below 1");
    if (!(o->projector_dropout >= 0 && o->projector_dropout < 1))
        return fail_option(err, "projector.dropout", "expected a share from 0 to below 1");
    if (o->projector == CAPTIONER_MOE && (o->experts < 2 || o->experts > CAPTIONER_EXPERTS_MAX))
        return fail_option(err, "projector.experts", "expected 2 to 64 experts");
    return 0;
}

/* The device's attention takes heads of some widths only. */
static int check_heads(const struct captioner *c, struct bl_error *err)
{
    const struct captioner_options *o = &c->options;
    const struct {
        const char *file, *key, *remedy;
        int64_t dim;
    } heads[] = {
        {o->vision, "num_attention_heads", "use --device cpu, or another vision model",
         c->vision_config.hidden / c->vision_config.heads},
        {o->llm, "head_dim", "use --device cpu, or another language model", c->llm_config.head_dim},
        {NULL, "qformer.heads", "raise qformer.heads, or use --device cpu", o->width / o->heads},
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        if (c->ops->head_dim_max == 0 || heads[i].dim <= c->ops->head_dim_max)
            continue;
        bl_fail(err, BL_ECONFIG,
                "expected attention heads of at most %lld values on %s, found %lld",
                (long long)c->ops->head_dim_max, c->ops->name, (long long)heads[i].dim);
        bl_error_key(err, "%s", heads[i].key);
        bl_error_remedy(err, "%s", heads[i].remedy);
        return heads[i].file ? bl_error_file(err, heads[i].file) : -BL_ECONFIG;
    }
    return 0;
}

static int open_trained(struct captioner *c, struct bl_error *err)
{
    static const struct cross_form *const cross_forms[] = {NULL, &cross_plain, &cross_folded};
    const struct captioner_options *o = &c->options;
    struct projector_shape projector = {
        o->projector,        o->queries, c->llm_config.hidden, o->experts, c->vision_config.hidden,
        o->projector_dropout};
    struct qformer_shape qformer = {o->queries,
                                    o->layers,
                                    o->heads,
                                    c->vision_config.tokens,
                                    c->vision_config.hidden,
                                    o->width,
                                    c->llm_config.hidden,
                                    o->dropout,
                                    cross_forms[o->cross]};
    c->params.ops = c->ops;
    BL_TRY(projector_open(&c->params, &projector, &c->projector, err));
    c->projector_end = c->params.view.count;
    BL_TRY(qformer_open(&c->params, &qformer, &c->qformer, err));
    c->params.view.router_first = c->params.view.count;
    projector_declare_router(c->projector);
    return params_build(&c->params, err);
}

static bool router_sees_pooled(const struct captioner *c)
{
    return captioner_is_moe(c) && c->options.routing == CAPTIONER_POOLED;
}

int captioner_open(struct ops *ops, const struct captioner_options *options, struct captioner **ret,
                   struct bl_error *err)
{
    bl_auto(captioner) struct captioner *c = calloc(1, sizeof *c);
    if (!c)
        return bl_fail(err, BL_ENOMEM, "no memory for a captioner");
    c->ops = ops;
    c->arena.ops = c->recorder.ops = ops;
    c->options = *options;
    BL_TRY(hf_vision_open(options->vision, &c->vision_config, err));
    BL_TRY(hf_preprocess_open(options->vision, &c->vision_config, &c->preprocess, err));
    BL_TRY(hf_llm_open(options->llm, &c->llm_config, err));
    if (c->options.width == 0)
        c->options.width = c->llm_config.hidden;
    if (c->options.bos_id < 0)
        c->options.bos = CAPTIONER_BOS_NONE;
    BL_TRY(check_options(&c->options, &c->llm_config, err));
    BL_TRY(check_heads(c, err));
    if (!options->features_only)
        BL_TRY(vision_open(ops, options->vision, &c->vision_config, &c->preprocess,
                           router_sees_pooled(c), options->images_alone, &c->vision, err));
    BL_TRY(llm_open(ops, options->llm, &c->llm_config, &c->llm, err));
    BL_TRY(open_trained(c, err));
    c->options.vision = c->options.llm = NULL; /* the caller's strings, done with */
    *ret = bl_take(&c);
    return 0;
}

static void release_step(struct captioner *c)
{
    struct step_store *step = &c->step;
    dev_void *device[] = {step->nll, step->routing, step->w, step->d_w, step->lse};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        c->ops->release(c->ops, device[i]);
    free(step->grain);
    free(step->texts);
}

void captioner_free(struct captioner **c)
{
    struct captioner *it = *c;
    if (!it)
        return;
    ahead_free(&it->ahead);
    vision_free(&it->vision);
    llm_free(&it->llm);
    params_close(&it->params);
    qformer_free(&it->qformer);
    projector_free(&it->projector);
    recorder_close(&it->recorder);
    arena_close(&it->arena);
    release_step(it);
    free(it);
    *c = NULL;
}

const struct hf_vision *captioner_vision(const struct captioner *c)
{
    return &c->vision_config;
}

const struct hf_llm *captioner_llm(const struct captioner *c)
{
    return &c->llm_config;
}

const struct hf_preprocess *captioner_preprocess(const struct captioner *c)
{
    return &c->preprocess;
}

/* -- parameters -- */

const struct captioner_params *captioner_params(const struct captioner *c)
{
    return &c->params.view;
}

int captioner_init(struct captioner *c, uint64_t seed, struct bl_error *err)
{
    BL_TRY(params_init(&c->params, seed, err));
    captioner_params_changed(c);
    return 0;
}

void captioner_params_changed(struct captioner *c)
{
    params_refresh(&c->params);
}

/* -- images -- */

/* The vector that the router looks at, from features and, when routing is pooled, the tower's
 * pooled vector. */
static int routing_vectors(struct captioner *c, const struct images *images, struct bl_error *err)
{
    struct ops *ops = c->ops;
    int64_t B = images->B, N = c->vision_config.tokens, D = c->vision_config.hidden;
    int64_t first = c->vision_config.leading_tokens; /* patch */
    if (c->options.routing == CAPTIONER_MEAN) {
        ops->mean_rows(ops, images->routing, images->features, B, N, first, D);
        return 0;
    }
    bl_autofree int32_t *host = malloc((size_t)(B + 1) * sizeof *host);
    if (!host)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld images", (long long)B);
    for (int64_t b = 0; b < B; b++)
        host[b] = (int32_t)(b * N + first);
    const dev_i32 *rows;
    struct arena_mark mark = arena_mark(&c->arena);
    BL_TRY(arena_i32_from(&c->arena, host, B, &rows, err));
    ops->gather_rows(ops, images->routing, images->features, rows, B, D);
    arena_release(&c->arena, mark);
    return 0;
}

static int images_from_pixels(struct captioner *c, const uint8_t *pixels,
                              const struct images *images, struct bl_error *err)
{
    bool pooled = images->routing && c->options.routing == CAPTIONER_POOLED;
    BL_ASSERT(c->vision != NULL);
    BL_TRY(vision_forward(c->vision, &c->arena, images->features, pooled ? images->routing : NULL,
                          pixels, images->B, err));
    return images->routing && !pooled ? routing_vectors(c, images, err) : 0;
}

/* y = x, which lies in host memory */
static int put_in(struct captioner *c, act *y, const float *x, int64_t count, struct bl_error *err)
{
    struct arena_mark mark = arena_mark(&c->arena);
    dev_f32 *device;
    BL_TRY(arena_f32(&c->arena, count, &device, err));
    c->ops->copy_in(c->ops, device, x, (size_t)count * sizeof *x);
    c->ops->act_from_f32(c->ops, y, device, count);
    arena_release(&c->arena, mark);
    return 0;
}

/* The other way. */
static int take_out(struct captioner *c, float *y, const act *x, int64_t count,
                    struct bl_error *err)
{
    struct arena_mark mark = arena_mark(&c->arena);
    dev_f32 *device;
    BL_TRY(arena_f32(&c->arena, count, &device, err));
    c->ops->act_to_f32(c->ops, device, x, count);
    c->ops->copy_out(c->ops, y, device, (size_t)count * sizeof *y);
    arena_release(&c->arena, mark);
    return 0;
}

static int images_from_features(struct captioner *c, const struct micro_batch *mb,
                                const struct images *images, struct bl_error *err)
{
    int64_t N = c->vision_config.tokens, D = c->vision_config.hidden;
    BL_TRY(put_in(c, images->features, mb->features, mb->B * N * D, err));
    if (router_sees_pooled(c))
        return put_in(c, images->routing, mb->pooled, mb->B * D, err);
    return images->routing ? routing_vectors(c, images, err) : 0;
}

int captioner_images(struct captioner *c, const struct micro_batch *mb, act *routing,
                     struct images *ret, struct bl_error *err)
{
    int64_t N = c->vision_config.tokens, D = c->vision_config.hidden;
    struct images images = {.B = mb->B, .routing = routing};
    BL_TRY(arena_act(&c->arena, mb->B * N * D, &images.features, err));
    if (captioner_is_moe(c) && !routing)
        BL_TRY(arena_act(&c->arena, mb->B * D, &images.routing, err));
    if (mb->B > 0 && mb->features)
        BL_TRY(images_from_features(c, mb, &images, err));
    else if (mb->B > 0)
        BL_TRY(images_from_pixels(c, mb->pixels, &images, err));
    *ret = images;
    return 0;
}

int captioner_step_images(struct captioner *c, const struct micro_batch *mb, act *routing,
                          struct images *ret, struct bl_error *err)
{
    struct images images = {.B = mb->B, .routing = routing};
    act *pooled;
    if (!c->ahead || !ahead_take(c->ahead, mb->pixels, mb->B, &images.features, &pooled))
        return captioner_images(c, mb, routing, ret, err);
    if (pooled)
        c->ops->copy(c->ops, routing, pooled,
                     (size_t)(mb->B * c->vision_config.hidden) * c->ops->act_bytes);
    else if (routing)
        BL_TRY(routing_vectors(c, &images, err));
    *ret = images;
    return 0;
}

int captioner_open_ahead(struct captioner *c, int64_t B, struct bl_error *err)
{
    return ahead_open(c->ops, c->vision, router_sees_pooled(c), B, &c->ahead, err);
}

bool captioner_looks_ahead(const struct captioner *c)
{
    return c->ahead != NULL;
}

int captioner_look_ahead(struct captioner *c, int64_t B, const uint8_t *pixels,
                         struct bl_error *err)
{
    return ahead_start(c->ahead, pixels, B, err);
}

void captioner_forget_ahead(struct captioner *c)
{
    if (c->ahead)
        ahead_forget(c->ahead);
}

size_t captioner_micro_batch_bytes(const struct captioner *c)
{
    return c->arena.peak;
}

int captioner_reserve(struct captioner *c, size_t bytes, struct bl_error *err)
{
    return arena_reserve(&c->arena, bytes, err);
}

int captioner_encode(struct captioner *c, int64_t B, const uint8_t *pixels, float *features,
                     float *pooled, struct bl_error *err)
{
    int64_t N = c->vision_config.tokens, D = c->vision_config.hidden;
    struct images images;
    BL_TRY(arena_reset(&c->arena, err));
    BL_TRY(captioner_images(c, &(const struct micro_batch){.B = B, .pixels = pixels}, NULL, &images,
                            err));
    BL_TRY(take_out(c, features, images.features, B * N * D, err));
    if (router_sees_pooled(c))
        BL_TRY(take_out(c, pooled, images.routing, B * D, err));
    return c->ops->sync(c->ops, err);
}

/* -- rows -- */

void layout_release(struct layout *layout)
{
    free(layout->label_counts);
    free(layout->lengths);
    *layout = (struct layout){0};
}

/* The host arrays that a layout is made of. */
struct layout_host {
    int32_t *start, *position, *ids, *token_rows, *query_rows, *keep, *label_ids;
};

static void host_release(struct layout_host *host)
{
    int32_t *arrays[] = {host->start,      host->position, host->ids,      host->token_rows,
                         host->query_rows, host->keep,     host->label_ids};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
}

static int check_text(const struct captioner *c, const struct micro_batch *mb, struct bl_error *err)
{
    const struct hf_llm *llm = &c->llm_config;
    int64_t extra = c->options.queries + (c->options.bos != CAPTIONER_BOS_NONE), rows = 0;
    for (int64_t b = 0; b < mb->B; b++) {
        int64_t first = mb->ids_start[b], end = mb->ids_start[b + 1];
        if ((b == 0 && first != 0) || end < first)
            return bl_fail(err, BL_EDATA,
                           "text %lld: expected starts that grow from 0, found %lld after %lld",
                           (long long)b, (long long)end, (long long)first);
        if (end - first + extra > llm->positions_max)
            return bl_fail(err, BL_EDATA,
                           "text %lld: %lld tokens and %lld more exceed the language model's %lld",
                           (long long)b, (long long)(end - first), (long long)extra,
                           (long long)llm->positions_max);
        for (int64_t i = first; i < end; i++)
            if (mb->ids[i] < 0 || mb->ids[i] >= llm->vocabulary)
                return bl_fail(err, BL_EDATA,
                               "text %lld: token %d is outside the vocabulary of %lld",
                               (long long)b, (int)mb->ids[i], (long long)llm->vocabulary);
        rows += end - first + extra;
    }
    if (rows > INT32_MAX / 2)
        return bl_fail(err, BL_ELIMIT, "a micro-batch of %lld rows", (long long)rows);
    return 0;
}

/* Sequence b of the micro-batch: [BOS] K queries [BOS] text, from row `row` on. Returns the row
 * behind it. */
static int64_t lay_sequence(const struct captioner *c, const struct micro_batch *mb, bool prompts,
                            int64_t b, int64_t row, struct layout *layout, struct layout_host *host)
{
    int64_t K = layout->queries, first = row;
    bool bos_before = c->options.bos == CAPTIONER_BOS_FIRST,
         bos_after = c->options.bos == CAPTIONER_BOS_AFTER_IMAGE;
#define PUT_TOKEN(id)                                                                              \
    (host->ids[layout->tokens] = (id), host->token_rows[layout->tokens++] = (int32_t)row++)
    if (bos_before)
        PUT_TOKEN(c->options.bos_id);
    for (int64_t k = 0; k < K; k++)
        host->query_rows[b * K + k] = (int32_t)row++;
    if (bos_after)
        PUT_TOKEN(c->options.bos_id);
    for (int64_t i = mb->ids_start[b]; i < mb->ids_start[b + 1]; i++) {
        if (!prompts && mb->labels[i]) {
            BL_ASSERT_CMP(row, >, first); /* something predicts it */
            host->keep[layout->labels] = (int32_t)row - 1;
            host->label_ids[layout->labels++] = mb->ids[i];
            layout->label_counts[b]++;
        }
        PUT_TOKEN(mb->ids[i]);
    }
#undef PUT_TOKEN
    if (prompts)
        host->keep[layout->labels++] = (int32_t)row - 1;
    host->start[b] = (int32_t)first;
    layout->lengths[b] = (int32_t)(row - first);
    for (int64_t r = first; r < row; r++)
        host->position[r] = (int32_t)(r - first);
    return row;
}

static int upload_layout(struct captioner *c, const struct micro_batch *mb,
                         const struct layout_host *host, struct layout *layout,
                         struct bl_error *err)
{
    struct llm_rows *rows = &layout->rows;
    struct arena_array arrays[] = {
        [2] = {host->position, rows->R, &rows->position},
        {host->keep, rows->kept, &rows->keep},
        {host->ids, layout->tokens, &layout->ids},
        {host->token_rows, layout->tokens, &layout->token_rows},
        {host->query_rows, layout->S * layout->queries, &layout->query_rows},
        {host->label_ids, layout->labels, &layout->label_ids},
        {mb->positions, mb->positions ? layout->S : 0, &layout->positions},
    };
    sequences_arrays(layout->S, host->start, layout->lengths, &rows->sequences, arrays);
    return arena_i32s_from(&c->arena, arrays, sizeof arrays / sizeof *arrays, err);
}

int captioner_layout(struct captioner *c, const struct micro_batch *mb, bool prompts,
                     struct layout *ret, struct bl_error *err)
{
    BL_TRY(check_text(c, mb, err));
    int64_t B = mb->B, K = mb->text_only ? 0 : c->options.queries, texts = B ? mb->ids_start[B] : 0,
            R_max = texts + B * (K + 1);
    __attribute__((cleanup(host_release))) struct layout_host host = {0};
    __attribute__((cleanup(layout_release))) struct layout layout = {.S = B, .queries = K};
    const struct {
        int32_t **p;
        int64_t count;
    } arrays[] = {
        {&host.start, B},
        {&host.position, R_max},
        {&host.ids, texts + B},
        {&host.token_rows, texts + B},
        {&host.query_rows, B * K},
        {&host.keep, texts + B},
        {&host.label_ids, texts + B},
        {&layout.label_counts, B},
        {&layout.lengths, B},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i].p = calloc((size_t)arrays[i].count + 1, sizeof(int32_t));
        if (!*arrays[i].p)
            return bl_fail(err, BL_ENOMEM, "no memory for the rows of %lld texts", (long long)B);
    }
    int64_t row = 0;
    for (int64_t b = 0; b < B; b++)
        row = lay_sequence(c, mb, prompts, b, row, &layout, &host);
    layout.rows.R = row;
    layout.rows.kept = layout.labels;
    BL_TRY(upload_layout(c, mb, &host, &layout, err));
    *ret = layout;
    layout.label_counts = layout.lengths = NULL;
    return 0;
}

int captioner_inputs(struct captioner *c, act *x, const struct layout *layout, const act *y,
                     struct bl_error *err)
{
    struct ops *ops = c->ops;
    int64_t D = c->llm_config.hidden;
    struct arena_mark mark = arena_mark(&c->arena);
    act *embedded;
    BL_TRY(arena_act(&c->arena, layout->tokens * D, &embedded, err));
    llm_embed(c->llm, embedded, layout->ids, layout->tokens);
    ops->scatter_rows(ops, x, embedded, layout->token_rows, layout->tokens, D);
    if (layout->queries)
        ops->scatter_rows(ops, x, y, layout->query_rows, layout->S * layout->queries, D);
    arena_release(&c->arena, mark);
    return 0;
}

int captioner_project(struct captioner *c, const struct images *images, act *y, dev_f32 **ret_w,
                      struct bl_error *err)
{
    int64_t B = images->B, E = c->options.experts;
    dev_f32 *w = NULL;
    if (captioner_is_moe(c)) {
        BL_TRY(arena_f32(&c->arena, B * E, &w, err));
        BL_TRY(projector_route(c->projector, &c->arena, w, NULL, images->routing, B, err));
    }
    struct arena_mark mark = arena_mark(&c->arena);
    act *queries;
    BL_TRY(arena_act(&c->arena, B * c->options.queries * c->llm_config.hidden, &queries, err));
    BL_TRY(qformer_forward(c->qformer, &c->arena, queries, images->features, B, NULL, SAVE_NOTHING,
                           err));
    BL_TRY(projector_forward(c->projector, &c->arena, y, queries, w, B, NULL, false, err));
    arena_release(&c->arena, mark);
    if (ret_w)
        *ret_w = w;
    return 0;
}

double captioner_exact(double x)
{
    return nearbyint(x * 0x1p24) * 0x1p-24;
}
