/* worker/options.c - see options.h. */
#include "worker/options.h"

#include <string.h>

#include "common/data/captions.h"

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
        .recompute = c->train.recompute,
        .images_alone = c->train.reproducible,
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
