/* common/config/schema_train.c - keys of training: length, batches, optimizer, validation, checkpoints. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    INT("train.steps", train.steps, 1, BL_STEPS_MAX, "optimizer steps", "auto",
        "Length of the run, and of its schedule. auto: what train.epochs gives. One of the two is required.", AUTO, TOLD),
    REAL("train.epochs", train.epochs, 0, 1e6, NULL, "0",
        "Length of the run in passes over the training samples, rounded up to whole steps; instead of train.steps.", FREE),
    INT("train.global_batch", train.global_batch, 1, BL_GLOBAL_BATCH_MAX, "samples", "256",
        "Samples of one optimizer step, on however many workers."),
    INT("train.micro_batch", train.micro_batch, 1, BL_MICRO_BATCH_SLOTS_MAX, "samples", "auto",
        "Samples that go through the model at once. auto: grain where that is given, else 8, or the global batch where that is smaller.", AUTO, FREE),
    BOOL("train.recompute", train.recompute, "false",
        "Of each block of Q-Former and language model only the input is kept for the backward pass, which computes the rest again: less memory, more time, the same weights to the last bit.", FREE),
    INT("train.grain", train.grain, 1, BL_MICRO_BATCH_SLOTS_MAX, "samples", "auto",
        "Under reproducible, the unit in which gradients are rounded and added; a micro-batch is one grain. auto: the micro-batch.", AUTO),
    BOOL("train.reproducible", train.reproducible, "false",
        "Gradients are added as integers, so that the weights are equal to the last bit for any number of workers and loaders, any interruption and any resume."),
    REAL("train.lr", train.lr, 0, 100, NULL, "0.0001", "Peak learning rate."),
    INT("train.warmup_steps", train.warmup_steps, 0, BL_STEPS_MAX, "optimizer steps", "auto",
        "Linear rise to the peak. auto: 3 % of the steps, rounded up.", AUTO, .auto_value = -1, TOLD),
    CHOICE("train.schedule", train.schedule, LIST("cosine", "constant", "wsd"), "cosine",
        "After warm-up: cosine to the floor, constant, or wsd: constant, then linear to the floor over decay_steps."),
    REAL("train.floor", train.floor, 0, 1, "of the peak", "0.1", "Learning rate at the end of cosine and wsd."),
    INT("train.decay_steps", train.decay_steps, 1, BL_STEPS_MAX, "optimizer steps", "auto",
        "Length of wsd's decay. auto: 20 % of the steps, rounded up.", AUTO, .auto_value = -1, TOLD),
    REAL("train.weight_decay", train.weight_decay, 0, 100, NULL, "0.01", "AdamW's decoupled weight decay."),
    REAL("train.beta1", train.beta1, 0, 0.999999, NULL, "0.9", "AdamW's first moment."),
    REAL("train.beta2", train.beta2, 0, 0.9999999, NULL, "0.999", "AdamW's second moment."),
    REAL("train.eps", train.eps, 1e-30, 1, NULL, "1e-8", "AdamW's epsilon."),
    BOOL("train.decay_norms", train.decay_norms, "true",
        "false spares norms, biases and queries from weight decay."),
    REAL("train.clip", train.clip, 0, 1e9, NULL, "1", "Global gradient norm above which the gradient is scaled down; 0 switches it off."),
    REAL("train.ema", train.ema, 0, 0.999999, NULL, "0",
        "Decay of an exponential moving average of the weights, saved beside them; 0 keeps none."),
    REAL("train.skip_outliers", train.skip_outliers, 0, 1000, "standard deviations", "0",
        "Steps whose gradient norm lies this far above its running mean are skipped and counted; 0 skips only steps that are not finite."),
    KEY("train.init_from", CONFIG_PATH, train.init_from, "",
        "Checkpoint whose weights the run starts from, at step 0.", FREE),
    INT("train.validate_every", train.validate_every, 0, BL_STEPS_MAX, "optimizer steps", "500",
        "0: only at the end.", FREE),
    BOOL("train.validate_at_start", train.validate_at_start, "false", "Validates before the first step too.", FREE),
    INT("train.validation_captions", train.validation_captions, 0, BL_VALIDATION_CAPTIONS_MAX, "captions", "4",
        "Sample captions written at each validation.", FREE),
    INT("train.validation_max_images", train.validation_max_images, 0, 1000000000, "samples", "0",
        "Of the validation set, this many are used; 0 uses all.", FREE),
    INT("train.max_new_tokens", train.max_new_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "64",
        "Length at which a sample caption is broken off.", FREE),
    INT("train.checkpoint_every", train.checkpoint_every, 0, BL_STEPS_MAX, "optimizer steps", "500",
        "0: only at start and end.", FREE),
    INT("train.keep_last", train.keep_last, 1, BL_CHECKPOINTS_KEPT_MAX, "checkpoints", "3", "Older checkpoints are removed.", FREE),
    BOOL("train.keep_best", train.keep_best, "true", "Keeps the checkpoint with the lowest validation loss as well.", FREE),
};
/* clang-format on */

static int check_length(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    if (train->steps && train->epochs > 0) {
        FAIL_KEY(r, "train.epochs", "train.steps is given as well");
        return bl_error_remedy(r->err, "remove one of them");
    }
    if (train->steps || train->epochs > 0)
        return 0;
    bl_fail(r->err, BL_ECONFIG, "is missing");
    bl_error_remedy(r->err, "it takes a whole number of optimizer steps; or give train.epochs");
    return config_fail_named(r, (struct place){0, 0}, "train.steps", -BL_ECONFIG);
}

/* Replaces auto. */
static void resolve_batches(struct config_train *train)
{
    if (!train->micro_batch)
        train->micro_batch = train->grain              ? train->grain
                             : train->global_batch < 8 ? train->global_batch
                                                       : 8;
    if (!train->grain)
        train->grain = train->micro_batch;
}

/* After resolve_batches. */
static int check_batches(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    if (train->micro_batch > train->global_batch)
        return FAIL_KEY(r, "train.micro_batch",
                        "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->micro_batch);
    if (train->grain > train->global_batch)
        return FAIL_KEY(r, "train.grain", "expected at most train.global_batch (%lld), found %lld",
                        (long long)train->global_batch, (long long)train->grain);
    if (train->reproducible && train->grain != train->micro_batch) {
        FAIL_KEY(r, "train.micro_batch",
                 "expected train.grain (%lld), since train.reproducible is true, found %lld",
                 (long long)train->grain, (long long)train->micro_batch);
        return bl_error_remedy(r->err, "give one of the two");
    }
    return 0;
}

/* Once the number of steps is known. */
static void resolve_steps(struct config_train *train)
{
    if (train->warmup_steps < 0)
        train->warmup_steps = (train->steps * 3 + 99) / 100;
    if (train->decay_steps < 0) {
        train->decay_steps = (train->steps + 4) / 5;
        if (train->decay_steps > train->steps - train->warmup_steps)
            train->decay_steps = train->steps - train->warmup_steps;
    }
}

/* After resolve_steps. */
static int check_steps(struct reader *r)
{
    const struct config_train *train = &r->config->train;
    static const char remedy[] = "lower it, or leave it out: it then follows train.steps";
    if (train->warmup_steps > train->steps) {
        FAIL_KEY(r, "train.warmup_steps", "expected at most train.steps (%lld), found %lld",
                 (long long)train->steps, (long long)train->warmup_steps);
        return bl_error_remedy(r->err, "%s", remedy);
    }
    if (train->schedule == CONFIG_WSD && train->decay_steps > train->steps - train->warmup_steps) {
        FAIL_KEY(r, "train.decay_steps",
                 "expected at most train.steps less train.warmup_steps (%lld), found %lld",
                 (long long)(train->steps - train->warmup_steps), (long long)train->decay_steps);
        return bl_error_remedy(r->err, "%s", remedy);
    }
    return 0;
}

static int resolve_train(struct reader *r)
{
    resolve_batches(&r->config->train);
    BL_TRY(check_batches(r));
    if (!r->config->train.steps)
        return 0;
    resolve_steps(&r->config->train);
    return check_steps(r);
}

int config_set_length(struct config *config, uint64_t samples, const char *name,
                      struct bl_error *err)
{
    struct config_train *train = &config->train;
    struct reader r = {.name = name, .config = config, .err = err};
    if (train->steps)
        return 0;
    double steps = ceil(train->epochs * (double)samples / (double)train->global_batch);
    if (!(steps >= 1 && steps <= BL_STEPS_MAX)) {
        bl_fail(err, BL_ECONFIG, "%g epochs of %llu samples are %g steps, expected 1 to %d",
                train->epochs, (unsigned long long)samples, steps, BL_STEPS_MAX);
        bl_error_key(err, "train.epochs");
        return bl_error_file(err, name);
    }
    train->steps = (int64_t)steps;
    train->epochs = 0;
    free(config->text);
    config->text = NULL;
    BL_TRY(config_print(config, err));
    resolve_steps(train);
    return check_steps(&r);
}

const struct config_room config_room_train = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
    .check = check_length,
    .resolve = resolve_train,
};
