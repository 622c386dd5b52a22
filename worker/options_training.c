/* worker/options_training.c - see options_training.h. */
#include "worker/options_training.h"

#include <stdio.h>
#include <string.h>

#include "common/size.h"

int64_t options_micro_batch(const struct config *c)
{
    return c->train.reproducible ? c->train.grain : c->train.micro_batch;
}

bool options_tower_ahead(const struct config *c, const struct ops *ops)
{
    return ops->open_beside && !c->train.reproducible;
}

struct trainer_options options_trainer(const struct config *c)
{
    static const enum schedule_kind kinds[] = {[CONFIG_COSINE] = SCHEDULE_COSINE,
                                               [CONFIG_CONSTANT] = SCHEDULE_CONSTANT,
                                               [CONFIG_WSD] = SCHEDULE_WSD};
    return (struct trainer_options){
        .seed = (uint64_t)c->seed,
        .reproducible = c->train.reproducible,
        .micro_batches = bl_ceil_div(c->train.global_batch, options_micro_batch(c)),
        .schedule = {.kind = kinds[c->train.schedule],
                     .peak = c->train.lr,
                     .floor = c->train.floor,
                     .warmup_steps = c->train.warmup_steps,
                     .steps = c->train.steps,
                     .decay_steps = c->train.decay_steps},
        .beta1 = c->train.beta1,
        .beta2 = c->train.beta2,
        .eps = c->train.eps,
        .weight_decay = c->train.weight_decay,
        .decay_norms = c->train.decay_norms,
        .clip = c->train.clip,
        .ema = (float)c->train.ema,
        .skip_outliers = c->train.skip_outliers,
        .experts = c->projector.kind == CONFIG_MOE ? c->projector.experts : 0,
        .balance = (float)c->projector.balance,
        .router_z = (float)c->projector.router_z};
}

static int copy_path(char ret[CHECKPOINT_PATH_MAX], const char *path, struct bl_error *err)
{
    if (snprintf(ret, CHECKPOINT_PATH_MAX, "%s", path) < CHECKPOINT_PATH_MAX)
        return 0;
    return bl_fail(err, BL_ELIMIT, "expected a path of less than %d bytes, found %.100s…",
                   CHECKPOINT_PATH_MAX, path);
}

int options_checkpoint_metadata(const struct config *c, const char *data_fingerprint,
                                struct checkpoint_state *ret, struct bl_error *err)
{
    struct checkpoint_state metadata = {.model_identity = HF_IDENTITY_ALL};
    snprintf(metadata.data_fingerprint, sizeof metadata.data_fingerprint, "%s", data_fingerprint);
    const char *vision = c->vision.plan_path ? c->vision.plan_path : c->vision.path;
    const char *llm = c->llm.plan_path ? c->llm.plan_path : c->llm.path;
    BL_TRY(copy_path(metadata.vision_path, vision, err));
    BL_TRY(copy_path(metadata.llm_path, llm, err));
    BL_TRY(hf_folder_sha256(c->vision.path, HF_IDENTITY_ALL, metadata.vision_sha256, err));
    BL_TRY(hf_folder_sha256(c->llm.path, HF_IDENTITY_ALL, metadata.llm_sha256, err));
    metadata.config = strdup(c->text);
    if (!metadata.config)
        return bl_fail(err, BL_ENOMEM, "no memory for the configuration");
    *ret = metadata;
    return 0;
}
