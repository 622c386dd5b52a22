/* coordinator/check_models.c - are the models whole, do they fit the configuration, and the tokenizer the models? */
#include "coordinator/check_parts.h"

#include "common/cleanup.h"
#include "common/models/family.h"
#include "common/models/hf_tensors.h"
#include "common/models/safetensors.h"

/* Reading all weights takes a while: `check` does, the start of training does not. */
static enum hf_asked asked(const struct check *c)
{
    return c->out ? HF_VALUES : HF_SHAPES;
}

static bool check_pictures(struct check *c)
{
    struct bl_error err;
    struct hf_preprocess preprocess;
    const struct hf_vision *v = &c->vision;
    const char *folder = c->config->vision.path;
    if (!check_model_passes(c, "vision", hf_preprocess_open(folder, v, &preprocess, &err), &err))
        return false;
    if (!preprocess.file)
        check_warning(
            c, "vision",
            "%s has neither processor_config.json nor preprocessor_config.json: images are "
            "resized to %lld x %lld (%s) and normalised with mean %g, std %g, as %s is by "
            "default",
            folder, (long long)preprocess.width, (long long)preprocess.height,
            preprocess.filter == IMAGE_BILINEAR ? "bilinear" : "bicubic",
            (double)preprocess.mean[0], (double)preprocess.std[0], v->family->name);
    if (v->image_size % v->patch)
        check_warning(
            c, "vision",
            "patches of %lld do not fill %lld pixels: %lld at the right and bottom are not seen",
            (long long)v->patch, (long long)v->image_size, (long long)(v->image_size % v->patch));
    return true;
}

void check_vision(struct check *c)
{
    struct bl_error err;
    const char *folder = c->config->vision.path;
    bl_auto(safetensors) struct safetensors *file = NULL;
    bool head =
        c->config->projector.kind == CONFIG_MOE && c->config->projector.routing == CONFIG_POOLED;
    if (!check_model_passes(c, "vision", hf_vision_open(folder, &c->vision, &err), &err) ||
        !check_model_passes(c, "vision", safetensors_open(folder, &file, &err), &err) ||
        !check_model_passes(c, "vision", hf_vision_check(&c->vision, head, file, asked(c), &err),
                            &err) ||
        !check_pictures(c))
        return;
    c->vision_there = true;
    check_ok(c, "vision", "%s: %s, %lld layers of %lld, images of %lld x %lld as %lld tokens",
             folder, c->vision.family->name, (long long)c->vision.layers,
             (long long)c->vision.hidden, (long long)c->vision.image_size,
             (long long)c->vision.image_size, (long long)c->vision.tokens);
}

void check_llm(struct check *c)
{
    struct bl_error err;
    const char *folder = c->config->llm.path;
    bl_auto(safetensors) struct safetensors *file = NULL;
    if (!check_model_passes(c, "llm", hf_llm_open(folder, &c->llm, &err), &err) ||
        !check_model_passes(c, "llm", safetensors_open(folder, &file, &err), &err) ||
        !check_model_passes(c, "llm", hf_llm_check(&c->llm, file, asked(c), &err), &err))
        return;
    c->llm_there = true;
    if (c->llm.tied && !hf_llm_tied(&c->llm, file))
        check_warning(c, "llm",
                      "%s: config.json says tie_word_embeddings, but the weights hold a head that "
                      "differs from the embedding; both are used, as in transformers",
                      folder);
    check_ok(c, "llm", "%s: %lld layers of %lld, vocabulary of %lld, %lld positions", folder,
             (long long)c->llm.layers, (long long)c->llm.hidden, (long long)c->llm.vocabulary,
             (long long)c->llm.positions_max);
}

/* Every id that the tokenizer can give must have a row in the model. */
static bool check_vocabulary(struct check *c)
{
    struct bl_error err;
    int32_t ids = tokenizer_vocabulary_size(c->tokenizer);
    if (!c->llm_there || ids <= c->llm.vocabulary)
        return true;
    bl_fail(&err, BL_EFORMAT,
            "expected ids below the model's vocabulary of %lld, found ids up to %d",
            (long long)c->llm.vocabulary, ids - 1);
    bl_error_remedy(&err, "tokenizer.json and the weights are of different models");
    bl_error_file(&err, c->config->llm.path);
    bl_error_key(&err, "tokenizer.json");
    return check_passes(c, "tokenizer", -BL_EFORMAT, &err);
}

static bool check_eos(struct check *c)
{
    struct bl_error err;
    int32_t eos;
    int rc = caption_eos(&c->config->data, c->tokenizer, &c->llm, &eos, &err);
    if (rc < 0)
        bl_error_file(&err, c->yaml);
    if (!check_passes(c, "tokenizer", rc, &err))
        return false;
    bl_autofree char *text = NULL;
    if (!check_passes(c, "tokenizer", tokenizer_decode(c->tokenizer, &eos, 1, true, &text, &err),
                      &err))
        return false;
    if (*text)
        check_warning(c, "tokenizer",
                      "captions end with \"%s\", which is no special token; data.eos names another",
                      tokenizer_content(c->tokenizer, eos));
    c->eos = eos;
    return true;
}

void check_tokenizer(struct check *c)
{
    struct bl_error err;
    size_t bos_count;
    if (!check_passes(c, "tokenizer", tokenizer_open(c->config->llm.path, &c->tokenizer, &err),
                      &err) ||
        !check_vocabulary(c) || !c->llm_there)
        return;
    if (!check_eos(c))
        return;
    const int32_t *bos = tokenizer_bos(c->tokenizer, &bos_count);
    if (bos_count > 1)
        check_warning(c, "tokenizer",
                      "it puts %zu tokens in front of a text; only the first is used", bos_count);
    check_ok(
        c, "tokenizer", "%d ids, captions end with %s (%d), BOS is %s",
        tokenizer_vocabulary_size(c->tokenizer), tokenizer_content(c->tokenizer, c->eos), c->eos,
        bos_count && c->config->llm.bos != CONFIG_BOS_NONE ? tokenizer_content(c->tokenizer, bos[0])
                                                           : "not used");
}

void check_qformer(struct check *c)
{
    const struct config_qformer *q = &c->config->qformer;
    if (!c->llm_there || !c->vision_there)
        return;
    int64_t width = q->width ? q->width : c->llm.hidden;
    if (width % q->heads) {
        check_wrong(c, "qformer", "qformer.heads", "choose heads that divide the width",
                    "expected a divisor of the width %lld, found %lld", (long long)width,
                    (long long)q->heads);
        return;
    }
    check_ok(c, "qformer", "%lld blocks of %lld, %lld heads, %lld queries, projector %s",
             (long long)q->layers, (long long)width, (long long)q->heads, (long long)q->queries,
             c->config->projector.kind == CONFIG_MOE ? "moe" : "normal");
}
