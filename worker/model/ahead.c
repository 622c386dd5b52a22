/* worker/model/ahead.c - see ahead.h. */
#include "worker/model/ahead.h"

#include <stdlib.h>

#include "common/cleanup.h"

struct ahead {
    struct ops *ops, *beside;
    const struct vision *vision;
    struct arena arena; /* of `beside`: pixels and the tower's working memory */
    int64_t images_max;
    struct {
        act *features, *pooled;
    } kept[2];
    int next; /* of kept: where the tower writes; the other may be in use */
    const uint8_t *pixels;
    int64_t images; /* started, of `pixels`; 0: none */
};

static int alloc_act(struct ahead *a, int64_t count, act **ret, struct bl_error *err)
{
    dev_void *p;
    BL_TRY(a->ops->alloc(a->ops, (size_t)count * a->ops->act_bytes, &p, err));
    *ret = p;
    return 0;
}

int ahead_start(struct ahead *a, const uint8_t *pixels, int64_t B, struct bl_error *err)
{
    BL_ASSERT(B >= 0 && B <= a->images_max);
    a->images = 0;
    if (B > 0) {
        BL_TRY(arena_reset(&a->arena, err));
        BL_TRY(vision_forward(a->vision, &a->arena, a->kept[a->next].features,
                              a->kept[a->next].pooled, pixels, B, err));
    }
    a->pixels = pixels;
    a->images = B;
    return 0;
}

/* Twice, since an arena joins its chunks when it is taken from again. */
static int run_alone(struct ahead *a, struct bl_error *err)
{
    const struct hf_vision *vision = vision_config(a->vision);
    bl_autofree uint8_t *black = calloc((size_t)a->images_max, vision_image_bytes(vision));
    if (!black)
        return bl_fail(err, BL_ENOMEM, "no memory for %lld images", (long long)a->images_max);
    for (int i = 0; i < 2; i++) {
        BL_TRY(a->ops->sync(a->ops, err));
        BL_TRY(ahead_start(a, black, a->images_max, err));
        BL_TRY(a->beside->sync(a->beside, err));
    }
    ahead_forget(a);
    return 0;
}

int ahead_open(struct ops *ops, const struct vision *vision, bool pooled, int64_t B,
               struct ahead **ret, struct bl_error *err)
{
    const struct hf_vision *config = vision_config(vision);
    bl_auto(ahead) struct ahead *a = calloc(1, sizeof *a);
    if (!a)
        return bl_fail(err, BL_ENOMEM, "no memory for a second queue");
    a->ops = ops;
    a->vision = vision;
    a->images_max = B;
    BL_TRY(ops->open_beside(ops, &a->beside, err));
    a->arena.ops = a->beside;
    for (int i = 0; i < 2; i++) {
        BL_TRY(alloc_act(a, B * config->tokens * config->hidden, &a->kept[i].features, err));
        if (pooled)
            BL_TRY(alloc_act(a, B * config->hidden, &a->kept[i].pooled, err));
    }
    BL_TRY(run_alone(a, err));
    if (!ops->dry && ops->free_bytes(ops) < AHEAD_SPARE_BYTES)
        return bl_fail(err, BL_ENOMEM, "%s has less than %.1f GB besides", ops->name,
                       (double)AHEAD_SPARE_BYTES / 1e9);
    *ret = bl_take(&a);
    return 0;
}

void ahead_free(struct ahead **ahead)
{
    struct ahead *a = *ahead;
    if (!a)
        return;
    arena_close(&a->arena);
    for (int i = 0; i < 2; i++) {
        a->ops->release(a->ops, a->kept[i].features);
        a->ops->release(a->ops, a->kept[i].pooled);
    }
    ops_free(&a->beside);
    free(a);
    *ahead = NULL;
}

bool ahead_take(struct ahead *a, const uint8_t *pixels, int64_t B, act **ret_features,
                act **ret_pooled)
{
    const bool started = a->images > 0 && a->images == B && a->pixels == pixels;
    /* The features of the micro-batch before are read by what is queued so far, and written over next. */
    a->beside->wait_for(a->beside, a->ops);
    if (started) {
        a->ops->wait_for(a->ops, a->beside);
        *ret_features = a->kept[a->next].features;
        *ret_pooled = a->kept[a->next].pooled;
        a->next = !a->next;
    }
    ahead_forget(a);
    return started;
}

void ahead_forget(struct ahead *a)
{
    a->images = 0;
}
