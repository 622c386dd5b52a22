/* worker/options.c - see setup.h. */
#include "worker/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/data/captions.h"
#include "common/size.h"

struct captioner_options options_captioner(const struct config *c, int32_t bos_id)
{
    static const enum captioner_routing routing[] = {[CONFIG_POOLED] = CAPTIONER_POOLED,
                                                     [CONFIG_MEAN] = CAPTIONER_MEAN,
                                                     [CONFIG_FIRST_PATCH] = CAPTIONER_FIRST};
    static const enum captioner_bos bos[] = {[CONFIG_BOS_FIRST] = CAPTIONER_BOS_FIRST,
                                             [CONFIG_BOS_AFTER_IMAGE] = CAPTIONER_BOS_AFTER_IMAGE,
                                             [CONFIG_BOS_NONE] = CAPTIONER_BOS_NONE};
    return (struct captioner_options){
        .vision = c->vision.path,
        .llm = c->llm.path,
        .width = c->qformer.width,
        .queries = c->qformer.queries,
        .layers = c->qformer.layers,
        .heads = c->qformer.heads,
        .dropout = (float)c->qformer.dropout,
        .projector = c->projector.kind == CONFIG_MOE ? CAPTIONER_MOE : CAPTIONER_NORMAL,
        .projector_dropout = (float)c->projector.dropout,
        .experts = c->projector.experts,
        .routing = routing[c->projector.routing],
        .bos = bos[c->llm.bos],
        .bos_id = bos_id};
}

int64_t options_group_size(const struct config *c)
{
    return c->train.reproducible ? c->train.grain : c->train.micro_batch;
}

struct trainer_options options_trainer(const struct config *c)
{
    static const enum schedule_kind kinds[] = {[CONFIG_COSINE] = SCHEDULE_COSINE,
                                               [CONFIG_CONSTANT] = SCHEDULE_CONSTANT,
                                               [CONFIG_WSD] = SCHEDULE_WSD};
    return (struct trainer_options){
        .seed = (uint64_t)c->seed,
        .reproducible = c->train.reproducible,
        .groups = bl_ceil_div(c->train.global_batch, options_group_size(c)),
        .schedule = {.kind = kinds[c->train.schedule],
                     .peak = c->train.lr,
                     .floor = c->train.floor,
                     .warmup_steps = c->train.warmup_steps,
                     .steps = c->train.steps,
                     .decay_steps = c->train.decay_steps},
        .beta1 = (float)c->train.beta1,
        .beta2 = (float)c->train.beta2,
        .eps = (float)c->train.eps,
        .weight_decay = (float)c->train.weight_decay,
        .decay_norms = c->train.decay_norms,
        .clip = (float)c->train.clip,
        .ema = (float)c->train.ema,
        .skip_outliers = (float)c->train.skip_outliers,
        .experts = c->projector.kind == CONFIG_MOE ? c->projector.experts : 0,
        .balance = (float)c->projector.balance,
        .router_z = (float)c->projector.router_z};
}

enum ops_precision options_precision(const struct config *c)
{
    return c->precision == CONFIG_F32 ? OPS_F32 : OPS_BF16;
}

int32_t options_bos(const struct tokenizer *tokenizer)
{
    size_t count;
    const int32_t *bos = tokenizer_bos(tokenizer, &count);
    return count ? bos[0] : -1;
}

int options_eos(const struct config *c, const struct hf_llm *llm, const struct tokenizer *tokenizer,
                int32_t ret[8], int *ret_count, struct bl_error *err)
{
    if (c->data.eos) {
        *ret_count = 1;
        return caption_eos(&c->data, tokenizer, llm, ret, err);
    }
    memcpy(ret, llm->eos, sizeof llm->eos);
    *ret_count = llm->eos_count;
    return 0;
}

int options_checkpoint_metadata(const struct config *c, const char *data_fingerprint,
                                struct checkpoint_state *ret, struct bl_error *err)
{
    struct checkpoint_state metadata = {0};
    snprintf(metadata.data_fingerprint, sizeof metadata.data_fingerprint, "%s", data_fingerprint);
    snprintf(metadata.vision_path, sizeof metadata.vision_path, "%s", c->vision.path);
    snprintf(metadata.llm_path, sizeof metadata.llm_path, "%s", c->llm.path);
    BL_TRY(hf_folder_sha256(c->vision.path, metadata.vision_sha256, err));
    BL_TRY(hf_folder_sha256(c->llm.path, metadata.llm_sha256, err));
    metadata.config = strdup(c->text);
    if (!metadata.config)
        return bl_fail(err, BL_ENOMEM, "no memory for the configuration");
    *ret = metadata;
    return 0;
}
