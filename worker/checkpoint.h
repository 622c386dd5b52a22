/* worker/checkpoint.h - a checkpoint folder from a snapshot, and back into a trainer
 * (common/models/checkpoint.h says what is in it). */
#pragma once

#include "common/models/checkpoint.h"
#include "worker/trainer.h"

/* Writes `folder` completely or not at all: under a temporary name, every file synced, then renamed. The
 * counters come from the snapshot, the paths, hashes and configuration from `metadata`. An older
 * folder of the same name is replaced. Any thread. `copied` is called once, on success and failure
 * alike, when the snapshot is read no more: before the slow part, which is the disk's. */
int checkpoint_write(const struct captioner_params *params, const struct trainer_snapshot *snapshot,
                     const struct checkpoint_state *metadata, const char *folder,
                     void (*copied)(void *context), void *context, struct bl_error *err);

/* Verifies everything, reads it straight into the trainer's tensors; training continues from there. A tensor
 * without a file must be declared zero; a missing average begins as the weights. After a failure the
 * trainer's state is undefined. ops: the trainer's. ret_state, or NULL, is the caller's
 * (checkpoint_state_release). */
int checkpoint_read(const struct captioner_params *params, struct ops *ops, struct trainer *trainer,
                    const char *folder, struct checkpoint_state *ret_state, struct bl_error *err);

/* The weights alone, verified, into a flat buffer on the device: what train.init_from takes. The
 * folder need not hold anything else. */
int checkpoint_read_weights(const struct captioner_params *params, struct ops *ops,
                            const char *folder, dev_f32 *values, struct bl_error *err);
