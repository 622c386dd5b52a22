/* worker/options_training.h - from a configuration to what the trainer is opened with, and to what a checkpoint says of its
 * run. */
#pragma once

#include "common/config/config.h"
#include "common/models/checkpoint.h"
#include "worker/trainer.h"

struct trainer_options options_trainer(const struct config *config);
/* Samples of one micro-batch: train.grain when reproducible, else train.micro_batch. */
int64_t options_micro_batch(const struct config *config);
/* Whether the vision tower of the next micro-batch may run beside the step (worker/model/ahead.h). Of a reproducible run all work is
 * in one queue. */
bool options_tower_ahead(const struct config *config, const struct ops *ops);

/* What a checkpoint says of its run: paths and hashes of the frozen models, the configuration.
 * Hashing reads the folders once. The caller releases it. */
int options_checkpoint_metadata(const struct config *config, const char *data_fingerprint,
                                struct checkpoint_state *ret, struct bl_error *err);
