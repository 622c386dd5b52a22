/* worker/model/tower.c - see tower.h. */
#include "worker/model/tower.h"

#include <stdlib.h>

#include "common/cleanup.h"

struct tower {
    struct ops *ops;
    struct hf_vision config;
    struct vision *vision;
    bool pooled;
    struct arena arena;
};

int tower_open(struct ops *ops, const char *folder, bool pooled, bool alone, struct tower **ret,
               struct bl_error *err)
{
    struct hf_preprocess preprocess;
    bl_auto(tower) struct tower *t = calloc(1, sizeof *t);
    if (!t)
        return bl_fail(err, BL_ENOMEM, "no memory for a vision tower");
    t->ops = t->arena.ops = ops;
    t->pooled = pooled;
    BL_TRY(hf_vision_open(folder, &t->config, err));
    BL_TRY(hf_preprocess_open(folder, &t->config, &preprocess, err));
    BL_TRY(vision_open(ops, folder, &t->config, &preprocess, pooled, alone, &t->vision, err));
    *ret = bl_take(&t);
    return 0;
}

void tower_free(struct tower **tower)
{
    struct tower *t = *tower;
    if (!t)
        return;
    vision_free(&t->vision);
    arena_close(&t->arena);
    free(t);
    *tower = NULL;
}

const struct hf_vision *tower_vision(const struct tower *t)
{
    return &t->config;
}

static int take_out(struct tower *t, float *host, const act *x, int64_t count, struct bl_error *err)
{
    struct arena_mark mark = arena_mark(&t->arena);
    dev_f32 *device;
    BL_TRY(arena_f32(&t->arena, count, &device, err));
    t->ops->act_to_f32(t->ops, device, x, count);
    t->ops->copy_out(t->ops, host, device, (size_t)count * sizeof *host);
    arena_release(&t->arena, mark);
    return 0;
}

int tower_encode(struct tower *t, int64_t B, const uint8_t *pixels, float *features, float *pooled,
                 struct bl_error *err)
{
    const struct hf_vision *v = &t->config;
    int64_t count = B * v->tokens * v->hidden;
    act *x, *p = NULL;
    BL_TRY(arena_reset(&t->arena, err));
    BL_TRY(arena_act(&t->arena, count, &x, err));
    if (t->pooled)
        BL_TRY(arena_act(&t->arena, B * v->hidden, &p, err));
    BL_TRY(vision_forward(t->vision, &t->arena, x, p, pixels, B, err));
    BL_TRY(take_out(t, features, x, count, err));
    if (p)
        BL_TRY(take_out(t, pooled, p, B * v->hidden, err));
    return t->ops->sync(t->ops, err);
}
