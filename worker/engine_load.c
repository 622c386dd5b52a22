/* worker/engine_load.c - opening what a run computes with. The frozen models are hashed meanwhile, on a thread of its own: only
 * checkpoints need the result. */
#include <stdlib.h>

#include "common/log.h"
#include "worker/engine_state.h"
#include "worker/rehearse.h"

static void *hash_models(void *argument)
{
    struct engine *e = argument;
    struct bl_error *error = engine_alloc(sizeof *error);
    if (options_checkpoint_metadata(e->options.config, e->options.data_fingerprint, &e->metadata,
                                    error) < 0)
        return error;
    ops_device_kind(e->options.device, e->metadata.device, sizeof e->metadata.device);
    free(error);
    return NULL;
}

/* A device with memory of its own has enough of it now, or never: a long caption does not end the run after a day. */
static int rehearse_longest(struct engine *e, struct bl_error *err)
{
    const struct config *config = e->options.config;
    const int64_t B = options_micro_batch(config), tokens = dataset_longest(e->options.dataset);
    if (!e->ops->peak_bytes)
        return rehearse_dry(e->captioner, &e->model, options_precision(config), e->options.threads,
                            B, tokens, err);
    BL_TRY(rehearse(e->captioner, B, tokens, e->model.features_only, err));
    return e->ops->sync(e->ops, err);
}

/* The next micro-batch's tower beside the step, where the device has room for it. */
static int open_ahead(struct engine *e, struct bl_error *err)
{
    if (e->model.features_only || !options_tower_ahead(e->options.config, e->ops))
        return 0;
    struct bl_error why;
    int rc = captioner_open_ahead(e->captioner, options_micro_batch(e->options.config), &why);
    if (rc == -BL_ENOMEM)
        bl_log(BL_LOG_INFO, "the vision tower does not run ahead of the step: %s", why.text);
    else if (rc < 0)
        *err = why;
    return rc == -BL_ENOMEM ? 0 : rc;
}

static int open_models(struct engine *e, struct bl_error *err)
{
    const struct config *config = e->options.config;
    int32_t bos;
    BL_TRY(tokenizer_open(config->llm.path, &e->tokenizer, err));
    bos = options_bos(e->tokenizer);
    BL_TRY(
        ops_open(e->options.device, options_precision(config), e->options.threads, &e->ops, err));
    e->ops->times_products = !config->train.reproducible;
    e->model = options_captioner(config, bos);
    bool cached = e->options.cache_tower[0] != 0;
    e->model.features_only = cached || config->cache.fill;
    if (config->cache.fill && !cached)
        BL_TRY(filler_open(e->ops, config, e->options.dataset, &e->filler, err));
    if (cached)
        BL_TRY(rows_open(&e->rows, config, e->options.cache_tower, e->options.dataset, err));
    BL_TRY(captioner_open(e->ops, &e->model, &e->captioner, err));
    BL_TRY(options_eos(config, captioner_llm(e->captioner), e->tokenizer, e->eos,
                       &e->decoding.eos_count, err));
    e->decoding.eos = e->eos;
    e->decoding.max_new = (int32_t)config->train.max_new_tokens;
    e->decoding.beams = 1;
    struct trainer_options training = options_trainer(config);
    training.threads = e->options.threads;
    BL_TRY(trainer_open(e->ops, e->captioner, &training, &e->trainer, err));
    BL_TRY(rehearse_longest(e, err));
    return open_ahead(e, err);
}

int engine_load(struct engine *e, struct bl_error *err)
{
    pthread_t thread;
    struct bl_error *failed = NULL;
    bool beside = pthread_create(&thread, NULL, hash_models, e) == 0;
    int rc = open_models(e, err);
    if (beside)
        pthread_join(thread, (void **)&failed);
    else
        failed = hash_models(e);
    if (rc == 0 && failed) {
        rc = -failed->code;
        *err = *failed;
    }
    free(failed);
    return rc;
}
